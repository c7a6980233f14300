"""Figure 5 of STAC: the tuned numbers in the course of training, a line a head."""

import functools
from typing import Any

import numpy as np

from ....core.api import Cost, Figure, Result, bound
from .atari import ENV_STEPS, QUICK, TIME, cell
from .scores import logged_returns

TUNED = "tuned/"  # metrics of tuned values begin with it: tuned/<component>.<field>/<head>
COLOURS = ("tab:blue", "tab:orange", "magenta")  # of heads, as in the paper: the first one acts
COLUMNS = 4
SAID = {
  "stacx": "not monotonic; auxiliary heads alike, apart from the main one, their γ lower, while "
  "its γ goes to the outer 0.995; α near 1 at first, lower towards the end.",
  "stacx_split_alpha": "STACX tunes α_ρ >= α_c in James Bond without being made to.",
}
ABOUT = {
  "stacx": "Atari James Bond: every tuned number of STACX in training, a line a head",
  "stacx_split_alpha": "Atari James Bond: α_ρ and α_c, tuned apart, in training",
}


def figure(agent: str) -> Figure:
  """Returns the figure of one run, seed 1 as in the paper."""
  cells = (cell(agent, "jamesbond", 1),)
  return Figure(
    ABOUT[agent],
    Cost(1, ENV_STEPS, TIME, "GPU"),
    cells,
    bound(cells, QUICK),
    draw,
    functools.partial(claims, SAID[agent]),
    table,
  )


def values(result: Result) -> dict[str, list[np.ndarray]]:
  """Returns the values [N] of each tuned number, 'component.field', by head."""
  found: dict[str, list[np.ndarray]] = {}
  heads = sorted(key for key in result.metrics if key.startswith(TUNED))  # fewer than ten heads
  for key in heads:
    # Costs are logged as plugins see them; the paper's figure divides them by their outer values.
    found.setdefault(key.removeprefix(TUNED).rpartition("/")[0], []).append(result.metrics[key])
  return found


def draw(results: list[Result]) -> Any:
  """Draws a panel a number, and one of the return."""
  from matplotlib.figure import Figure as Page

  (result,) = results
  steps, tuned = result.metrics["env_steps"], values(result)
  rows = -(-(len(tuned) + 1) // COLUMNS)
  page = Page(figsize=(3.4 * COLUMNS, 2.6 * rows), layout="constrained")
  panels = iter(page.subplots(rows, COLUMNS, squeeze=False).flat)
  # Numbers first: zip then ends before it takes a panel, and the return's is the next.
  for (name, heads), axes in zip(tuned.items(), panels, strict=False):
    for head, (line, colour) in enumerate(zip(heads, COLOURS, strict=False)):
      axes.plot(steps, line, color=colour, lw=1.2, label=f"head {head}")
    axes.set(title=name, xlabel="env steps")
    axes.legend(fontsize=7)
  last, *unused = panels
  last.plot(*logged_returns(result), color="black", lw=1.2)
  last.set(title="return", xlabel="env steps")
  for axes in unused:
    axes.set_axis_off()
  return page


def claims(said: str, results: list[Result]) -> list[str]:
  """Says what the paper says; the first and last value of every number, by head."""
  lines = [f"the paper: {said}"]
  for name, heads in values(results[0]).items():
    moved = ", ".join(f"{line[0]:.4f} -> {line[-1]:.4f}" for line in heads)
    lines.append(f"{name}: {moved}")
  return lines


def table(results: list[Result]) -> list[dict[str, Any]]:
  """Returns a row for each that was logged: env steps, return, and every tuned number."""
  metrics = results[0].metrics
  names = ["env_steps", "episode_return", *(name for name in metrics if name.startswith(TUNED))]
  there = [name for name in names if name in metrics]
  return [{name: metrics[name][i] for name in there} for i in range(len(metrics["env_steps"]))]

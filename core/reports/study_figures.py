"""The figures of `selftune study`, by name."""

from typing import Any

import numpy as np

from ..record.drawing import legend, line_colours, shown
from .figures import BESIDE, bands, figure
from .study import Found, Place

COLUMNS = 3
ROW = 0.4  # inches of a bar

# Tuned number -> place -> its median over runs at the beginning and at the end, and the mean of the
# distances that it went in a run.
Moved = dict[str, dict[Place, tuple[float, float, float]]]


def draw(found: Found, moves: Moved) -> dict[str, Any]:
  """Draws all figures that there is something to draw in, by name."""
  figures = {
    "sensitivity": _plane(found),
    "scores": _scores(found),
    "search": _search(found),
    "profiles": _profiles(found),
  }
  if any(worth.of_k.shape[1] > 1 for worth in found.worth.values()):
    figures["dimension"] = _dimension(found)
  if moves:
    figures["moved"] = _moved(moves)
  return figures


def _plane(found: Found) -> Any:
  """Draws score against sensitivity, a point an agent: above and to the left is better."""
  page, (axes,) = figure(6.5, 5.0)
  colours = line_colours(len(found.worth))
  points = []
  for colour, worth in zip(colours, found.worth.values(), strict=True):
    (x, *across), (y, *along) = worth.sensitivity, worth.tuned
    axes.plot(across, [y, y], color=colour, alpha=0.5)
    axes.plot([x, x], along, color=colour, alpha=0.5)
    points += axes.plot(x, y, "o", color=colour, markersize=8)
  axes.set_xlabel("sensitivity: what a setting for each environment gains over one for all")
  axes.set_ylabel("normalised score, each environment tuned")
  legend(axes, points, list(found.worth), fontsize=9)
  return page


def _scores(found: Found) -> Any:
  """Draws a panel an environment, with two bars an agent: its own setting, and that for all."""
  environments, agents = found.results.environments, list(found.worth)
  columns = min(COLUMNS, len(environments))
  rows = -(-len(environments) // columns)
  from matplotlib.figure import Figure

  page = Figure(
    figsize=(1.5 + 3.4 * columns, rows * (1.0 + 2 * ROW * len(agents))), layout="constrained"
  )
  panels = page.subplots(rows, columns, squeeze=False, sharey=True).ravel()
  colours = line_colours(len(agents))
  for axes, environment in zip(panels, environments, strict=False):
    for i, (colour, agent) in enumerate(zip(colours, agents, strict=True)):
      # The two bars of an agent lie side by side; either is missing where no setting has a score.
      for of, offset, alpha in ((found.at_best, -0.2, 0.8), (found.at_star, 0.2, 0.35)):
        if (agent, environment) in of:
          point, low, high = of[agent, environment]
          axes.barh(i + offset, high - low, left=low, height=0.36, color=colour, alpha=alpha)
          axes.vlines(point, i + offset - 0.18, i + offset + 0.18, color="black", linewidth=1.5)
    axes.use_sticky_edges = False
    axes.set_title(shown(environment), fontsize=10, parse_math=False)
    axes.set_yticks(range(len(agents)), [shown(a, BESIDE) for a in agents], parse_math=False)
    axes.set_ylim(len(agents) - 0.5, -0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
  for axes in panels[len(environments) :]:
    axes.set_visible(False)
  page.supxlabel("score: strong, its own setting; pale, the setting for all", fontsize=10)
  return page


def _search(found: Found) -> Any:
  page, (axes,) = figure(8.0, 4.5)
  lines = []
  colours = line_colours(len(found.worth))
  for colour, worth in zip(colours, found.worth.values(), strict=True):
    point, low, high = worth.search
    tries = np.arange(1, len(point) + 1)
    alone = len(point) == 1  # of which a line shows nothing
    lines += axes.plot(tries, point, "o-" if alone else "-", color=colour, linewidth=1.8)
    axes.fill_between(tries, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.axhline(worth.common[0], color=colour, linestyle=":", linewidth=1)
  axes.set_xlabel("settings tried in each environment (dotted: the setting for all, untuned)")
  axes.set_ylabel("expected best normalised score")
  legend(axes, lines, list(found.worth), fontsize=9)
  return page


def _profiles(found: Found) -> Any:
  page, (axes,) = figure(8.0, 4.5)
  if found.profiles.point:
    bands(axes, found.thresholds, found.profiles)
  axes.set_xlabel("normalised score τ")
  axes.set_ylabel("fraction of all runs with score > τ")
  return page


def _dimension(found: Found) -> Any:
  from matplotlib.ticker import MaxNLocator

  page, (axes,) = figure(6.5, 4.5)
  lines, names = [], []
  colours = line_colours(len(found.worth))
  for colour, (agent, worth) in zip(colours, found.worth.items(), strict=True):
    point, low, high = worth.of_k
    if not np.isnan(point).any():
      tuned = np.arange(len(point))
      lines += axes.plot(tuned, point, "o-", color=colour, markersize=4)
      axes.fill_between(tuned, low, high, color=colour, alpha=0.18, linewidth=0)
      names.append(agent)
  axes.xaxis.set_major_locator(MaxNLocator(integer=True))
  axes.set_xlabel("hyperparameters tuned in each environment, the best so many")
  axes.set_ylabel("normalised score")
  legend(axes, lines, names, fontsize=9)
  return page


def _moved(moves: Moved) -> Any:
  """Draws a panel a tuned number; a line from where it began to the dot where it ended."""
  from matplotlib.figure import Figure

  columns = min(COLUMNS, len(moves))
  rows = -(-len(moves) // columns)
  tallest = max(map(len, moves.values()))
  page = Figure(figsize=(4.0 * columns, rows * (1.0 + 0.3 * tallest)), layout="constrained")
  panels = page.subplots(rows, columns, squeeze=False).ravel()
  for axes, (name, of) in zip(panels, moves.items(), strict=False):
    for i, (first, last, _) in enumerate(of.values()):
      axes.plot([first, last], [i, i], color="C0", linewidth=1.5, alpha=0.6)
      axes.plot(first, i, "|", color="C0", markersize=8)
      axes.plot(last, i, "o", color="C0", markersize=5)
    labels = [shown(f"{agent} · {environment}", BESIDE) for agent, environment in of]
    axes.set_yticks(range(len(of)), labels, parse_math=False, fontsize=8)
    axes.set_ylim(len(of) - 0.5, -0.5)
    axes.set_title(shown(name), fontsize=10, parse_math=False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
  for axes in panels[len(moves) :]:
    axes.set_visible(False)
  return page

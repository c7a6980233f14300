"""Figures 1 to 5 of Metatrace: mountain car, return by episode for every alpha_0 and mu."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from ....core.api import Cost, Figure, Result, final
from .cells import (
  METHODS,
  by_mu,
  cell,
  curve,
  formula,
  of_method,
  page,
  power,
  shade,
  table,
  title,
)

QUICK = ("runs.repeats = 2", "runs.episodes = 30")
QUICK_ALPHAS = tuple(2.0**-k for k in (4, 7, 10, 13))
LEARNS = -150.0  # mean return of the last 100 episodes of what has learned: from -200 to about -100
CLOSE = 5.0  # mu whose mean return is within this of the best are useful
SHOWN = {  # method -> powers of mu, negated, of Figures 2 to 5
  "scalar": range(6, 12),
  "scalar_raw": range(14, 20),
  "sid": range(14, 20),
  "nosid": range(10, 16),
}
# The paper's text also speaks of greater mu, and of the vector form: these are trained as well.
MUS = SHOWN | {
  "scalar": range(3, 12),
  "scalar_raw": range(11, 20),
  "nosid": range(4, 16),
  "vector": range(6, 12),
}


def figure(method: str, time: str, beside: Sequence[str] = ()) -> Figure:
  """Returns the figure of one method.

  Args:
    method: a key of `METHODS`.
    time: how long the figure takes, as measured.
    beside: methods that are trained too and not drawn: the claims compare with them.
  """
  methods = dict.fromkeys(("none", method, *beside))
  cells = tuple(cell(m, MUS.get(m, ())) for m in methods)
  # Twelve alpha_0 of ten repeats, for each mu; no tuning counts as one mu.
  runs = 120 * sum(max(1, len(MUS.get(m, ()))) for m in methods)
  return Figure(
    f"mountain car: return for twelve initial step sizes, {METHODS[method][2]}",
    # 500 episodes of 200 steps, and their resets.
    Cost(runs, 100_500, f"{time} after the figures before it, on two cores in machine code", "CPU"),
    cells,
    tuple(cell(m, MUS.get(m, ()), alphas=QUICK_ALPHAS, more=QUICK) for m in methods),
    functools.partial(draw, method),
    functools.partial(claims, method),
    table,
  )


def by_alpha(result: Result) -> dict[float, np.ndarray]:
  """Groups a cell's returns by alpha_0, the greatest first: [repeats, E] each."""
  # The runs of a cell lie along R, as runs.csv has them; which alpha_0 is whose is in its rows.
  alphas = np.array([float(row["ac_lambda.alpha"]) for row in result.settings])
  return {a: result.returns[alphas == a] for a in sorted(set(alphas), reverse=True)}


def draw(method: str, results: list[Result]) -> Any:
  """Draws a curve each alpha_0, a panel each mu of one method (Figures 1 to 5)."""
  powers = [2.0**-power for power in SHOWN.get(method, ())]
  found = of_method(list(by_mu(results)), method)
  shown = [r for r in found if r.cell.columns["mu"] in ("", *powers)]
  columns = min(2, len(shown))
  made, grid = page(-(-len(shown) // columns), columns)
  for axes, result in zip(grid.flat, shown, strict=True):
    alphas = by_alpha(result)
    shade(axes, len(alphas))
    for alpha, returns in alphas.items():
      curve(axes, returns, 20, formula("alpha_0", alpha))
    # -200 is the least return there is: an episode of 200 steps without the goal.
    axes.set(title=title(result), xlabel="training episodes", ylabel="return", ylim=(-205, -95))
  made.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
  return made


def spread(result: Result) -> float:
  """Returns the standard deviation over alpha_0 of the mean return of all episodes."""
  return float(np.std([returns.mean() for returns in by_alpha(result).values()]))


def mean_return(result: Result) -> float:
  """Returns the mean over all episodes, alpha_0 and repeats."""
  return float(result.returns.mean())


def claims(method: str, results: list[Result]) -> list[str]:
  """Says how much alpha_0 matters, which mu are useful, and which alpha_0 still learn."""
  results = list(by_mu(results))
  baseline, tuned = of_method(results, "none")[0], of_method(results, method)
  lines = [f"no tuning: spread over alpha_0 {spread(baseline):.1f}, {largest(baseline)}"]
  if method == "none":
    return lines
  for result in tuned:
    lines.append(
      f"{power(result.cell.columns['mu'])}: spread {spread(result):.1f}, mean return "
      f"{mean_return(result):.1f} (no tuning {mean_return(baseline):.1f}), {largest(result)}"
    )
  # Powers are negated, so the first is of the greatest mu; results come in that order, too.
  greatest = 2.0 ** -SHOWN[method][0]
  shown = [r for r in tuned if 2.0 ** -SHOWN[method][-1] <= r.cell.columns["mu"] <= greatest]
  better = sum(spread(result) < spread(baseline) for result in shown)
  lines.append(f"the spread shrinks for {better} of the {len(shown)} mu that the paper shows")
  above = [r for r in tuned if r.cell.columns["mu"] > greatest]
  if above:
    fall = [f"{mean_return(r):.1f} at {power(r.cell.columns['mu'])}" for r in reversed(above)]
    at = next(r for r in shown if r.cell.columns["mu"] == greatest)
    lines.append(
      f"above {power(greatest)}, where the mean return is {mean_return(at):.1f}: {', '.join(fall)}"
    )
  for other in dict.fromkeys(r.cell.columns["tuner"] for r in results):
    if other not in ("none", method):
      lines += compare(tuned, of_method(results, other))
  return lines


def compare(tuned: list[Result], beside: list[Result]) -> list[str]:
  """Compares two methods: their useful mu, and how far apart they are where mu are equal."""
  lines = []
  for results in (tuned, beside):
    best = max(results, key=mean_return)
    close = [r for r in results if mean_return(r) > mean_return(best) - CLOSE]
    best_mu, least, most = (power(r.cell.columns["mu"]) for r in (best, close[-1], close[0]))
    name = METHODS[best.cell.columns["tuner"]][2]
    lines.append(
      f"{name}: best mu {best_mu}, mean return {mean_return(best):.1f}; useful {least} to {most}, "
      f"{len(close)} of {len(results)} mu"
    )
  other = {result.cell.columns["mu"]: mean_return(result) for result in beside}
  apart = [abs(mean_return(r) - other[mu]) for r in tuned if (mu := r.cell.columns["mu"]) in other]
  if apart:
    lines.append(f"at equal mu their mean returns differ by {np.mean(apart):.1f}")
  return lines


def largest(result: Result) -> str:
  """Says which alpha_0 is the largest that still learns."""
  # From the greatest down, as `by_alpha` has them.
  learned = [alpha for alpha, returns in by_alpha(result).items() if final(returns) > LEARNS]
  return f"largest alpha_0 that learns {power(learned[0])}" if learned else "none learns"

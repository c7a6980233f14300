"""Figures 8 and 9 of Metatrace: Atari, return against learning steps for every alpha_0."""

from typing import Any

import numpy as np

from ....core.api import Cell, Cost, Figure, Result, bound, smooth
from .alphas import by_alpha
from .cells import METHODS, formula, page, power, shade

GAMES = ("space_invaders", "seaquest", "asterix", "beam_rider", "freeway")
SWEEP = tuple(2.0**-k for k in range(6, 14))
BEST = (2.0**-8, 2.0**-9, 2.0**-10)  # the paper does not name its three
QUICK = (
  f"runs.settings = {{'ac_lambda.alpha': {BEST[:2]}}}",
  "runs.repeats = 1",
  "train.total_env_steps = 600",
  "atari.max_episode_steps = 150",
)
MU = 0.001  # section 5.3
SMOOTHED = 40  # episodes
LAST = 100  # episodes that say which alpha_0 is best


def cell(method: str, game: str, alphas: tuple[float, ...], repeats: int) -> Cell:
  """Returns the cell of one method in one game: a run each alpha_0 and seed, all in one pool."""
  tuner = METHODS[method][0]
  # One mu for all, so it is bound; only alpha_0 is a setting of runs.
  mu = () if method == "none" else (f"{tuner}.mu = {MU}",)
  bindings = (
    f"tuner = @{tuner}()",
    *mu,
    f"atari.game = {game!r}",
    f"runs.settings = {{'ac_lambda.alpha': {alphas}}}",
    f"runs.repeats = {repeats}",
  )
  name = f"{game}_{method}_{len(alphas)}x{repeats}"
  return Cell(name, {"tuner": method, "game": game}, "experiments/atari_metatrace", bindings)


def draw(results: list[Result]) -> Any:
  """Draws a panel each cell: a curve each alpha_0, the mean over its seeds.

  Those of a tuner have the best constant step size of the game as well.
  """
  made, grid = page(-(-len(results) // 2), 2)
  constant = {r.cell.columns["game"]: r for r in results if r.cell.columns["tuner"] == "none"}
  for axes, result in zip(grid.flat, results, strict=True):
    alphas = by_alpha(result)
    shade(axes, len(alphas))
    for alpha in alphas:
      steps, returns = curve(result, alpha)
      axes.plot(steps, returns, label=formula("alpha_0", alpha), lw=1.2)
    columns = result.cell.columns
    if columns["tuner"] != "none":
      untuned = constant[columns["game"]]
      best = max(by_alpha(untuned), key=lambda a, untuned=untuned: final(untuned, a))
      label = f"no tuning, {formula('alpha_0', best)}"
      axes.plot(*curve(untuned, best), label=label, lw=1.2, ls="--", color="black")
    axes.set(title=f"{columns['game']}, {METHODS[columns['tuner']][2]}")
    axes.set(xlabel="learning steps", ylabel="return")
    axes.legend(fontsize=7)
  return made


def curve(result: Result, alpha: float) -> tuple[np.ndarray, np.ndarray]:
  """Averages the smoothed returns of an alpha_0's runs: learning steps [200], return [200]."""
  # Against steps and not episodes, as in the paper: games of better play last longer.
  runs = [
    (np.cumsum(lengths), smooth(returns, SMOOTHED)) for returns, lengths in played(result, alpha)
  ]
  if not runs:
    return np.empty(0), np.empty(0)
  # Runs end their last episode at different steps; beyond it np.interp holds the last return.
  steps = np.linspace(0, max(ends[-1] for ends, _ in runs), 200)
  return steps, np.mean([np.interp(steps, *run) for run in runs], 0)


def final(result: Result, alpha: float) -> float:
  """Returns the mean return of the last episodes of the runs of an alpha_0; NaN without any."""
  # Run by run: each has played another number of episodes, so columns of returns do not compare.
  ends = [returns[-LAST:].mean() for returns, _ in played(result, alpha)]
  return float(np.mean(ends)) if ends else np.nan


def played(result: Result, alpha: float) -> list[tuple[np.ndarray, np.ndarray]]:
  """Selects returns [E] and lengths [E] of each run of an alpha_0; E differs between runs.

  Runs without an episode are left out: a short form may end within the first. A diverged run ends
  in as many episodes as it missed, each of one step.
  """
  rows = [i for i, row in enumerate(result.settings) if float(row["ac_lambda.alpha"]) == alpha]
  scored = ~np.isnan(result.returns)
  return [
    (result.returns[i, scored[i]], np.maximum(result.lengths[i, scored[i]], 1))
    for i in rows
    if scored[i].any()
  ]


def claims(results: list[Result]) -> list[str]:
  """Says of every cell how much alpha_0 matters, which is best, and how many beat no tuning."""
  lines, untuned = [], {}  # untuned cells come first
  for result in results:
    last = {alpha: final(result, alpha) for alpha in by_alpha(result)}
    best = max(last, key=lambda a: last[a])
    columns = result.cell.columns
    lines.append(
      f"{columns['game']}, {METHODS[columns['tuner']][2]}: last {LAST} episodes, best "
      f"{last[best]:.1f} (alpha_0 = {power(best)}), worst {min(last.values()):.1f}"
    )
    if columns["tuner"] == "none":
      untuned[columns["game"]] = last[best]
    elif columns["game"] in untuned:
      above = sum(x > untuned[columns["game"]] for x in last.values())
      lines[-1] += f"; {above} of {len(last)} alpha_0 beat the best untuned"
  return lines


def figure(about: str, runs: int, cells: list[Cell]) -> Figure:
  """Returns a figure of these cells, with so many runs in all."""
  cost = Cost(runs, 12_500_000, "not yet measured", "GPU")
  return Figure(about, cost, tuple(cells), bound(cells, QUICK), draw, claims)


FIG8 = figure(
  "Atari seaquest: return for eight initial step sizes, each Metatrace and none",
  # Four methods, one seed.
  4 * len(SWEEP),
  [cell(m, "seaquest", SWEEP, 1) for m in ("none", "scalar", "mixed", "vector")],
)
FIG9 = figure(
  "five Atari games: return for three initial step sizes, mixed Metatrace and none",
  # Two methods, five seeds.
  2 * len(GAMES) * len(BEST) * 5,
  [cell(m, game, BEST, 5) for game in GAMES for m in ("none", "mixed")],
)

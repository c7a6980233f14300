"""Figures 6 and 7 of Metatrace: drifting mountain car, a curve each method or each mu."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from ....core.api import Cell, Cost, Figure, Result, bound, final, smooth
from .cells import METHODS, by_mu, cell, curve, formula, of_method, page, table, title

QUICK = ("runs.repeats = 2", "runs.episodes = 30")
EARLY = 200  # episodes
CLOSE = 10.0  # returns so close to the best mu's are similar
DRIFTS = (4e-6, 6e-6, 8e-6, 1e-5)
SWEPT = 6e-6  # the drift of Figure 7
EPISODES = 5000  # the paper does not say how many
MUS = (6, 7, 8, 9, 10, 11)
SHOWN = ("none", "scalar", "vector", "mixed")
GROUPS = [f"{head}/{kind}" for head in ("value", "policy") for kind in ("informative", "noise")]
BETA_POWER = 10
BETA_MU = 2.0**-BETA_POWER
MORE = (
  f"runs.episodes = {EPISODES}",
  f"train.total_env_steps = {201 * EPISODES}",  # episodes of 200 steps, and their resets
  "runs.iterations = 100",
  "train.log_seconds = 0.2",  # where beta goes is read from the rows
)


def cells(drifts: Sequence[float], methods: Sequence[str]) -> tuple[Cell, ...]:
  """Returns the grid of drifts, methods and, of tuners, mu."""
  made = []
  for drift, method in itertools.product(drifts, methods):
    powers: list[tuple[int, ...]] = [() if method == "none" else MUS]
    if drift == SWEPT and method != "none":
      # Rows of metrics are of all runs of a cell, and Figure 7 shows beta at one mu.
      powers = [tuple(power for power in MUS if power != BETA_POWER), (BETA_POWER,)]
    made += [cell(method, of, drift, more=MORE) for of in powers]
  return tuple(made)


def best(results: Sequence[Result], method: str, drift: float) -> Result:
  """Selects the best of a method's mu by the mean return of the last 100 episodes."""
  columns = [(r, r.cell.columns) for r in by_mu(results)]
  found = [r for r, c in columns if (c["tuner"], c["drift"]) == (method, drift)]
  return max(found, key=lambda r: final(r.returns))


def draw_drifts(results: list[Result]) -> Any:
  """Draws the best mu of every method, a panel each drift (Figure 6)."""
  made, grid = page(2, 2)
  for axes, drift in zip(grid.flat, DRIFTS, strict=True):
    for method in SHOWN:
      result = best(results, method, drift)
      curve(axes, result.returns, 40, title(result))
    axes.set(title=f"drift = {drift:g}", xlabel="training episodes", ylabel="return")
    axes.legend(fontsize=7)
  return made


def claim_drifts(results: list[Result]) -> list[str]:
  """Says the order of the methods early and late, each at its best mu (Figure 6)."""
  lines, late_of = [], {}
  for drift in DRIFTS:
    returns = {method: best(results, method, drift).returns for method in SHOWN}
    # `final` is of the last 100 of what it is given: of all, or of the first EARLY episodes.
    early, late = ({m: final(r[:, :end]) for m, r in returns.items()} for end in (EARLY, None))
    late_of[drift] = early, late, {m: smooth(r, 100).mean(0).max() for m, r in returns.items()}
    lines.append(
      f"drift {drift:g}: episodes {EARLY - 99} to {EARLY}: {ranking(early)}; "
      f"last 100: {ranking(late)}"
    )
  saying = {
    "all tuning ends above no tuning": lambda early, late, peak: min(late, key=late.get) == "none",
    "mixed ends as the best": lambda early, late, peak: max(late, key=late.get) == "mixed",
    "scalar is ahead of vector early": lambda early, late, peak: early["scalar"] > early["vector"],
    "vector ends above scalar": lambda early, late, peak: late["vector"] > late["scalar"],
    "scalar ends by 5 or more below its peak": lambda early, late, peak: (
      late["scalar"] <= peak["scalar"] - 5
    ),
  }
  for claim, holds in saying.items():
    where = [f"{drift:g}" for drift, found in late_of.items() if holds(*found)]
    lines.append(f"{claim}: at {len(where)} of {len(DRIFTS)} drifts ({', '.join(where) or 'none'})")
  return lines


def ranking(scores: dict[str, float]) -> str:
  """Lists names and scores, the best first."""
  return ", ".join(
    f"{name} {scores[name]:.1f}" for name in sorted(scores, key=lambda n: -scores[n])
  )


def draw_sweeps(results: list[Result]) -> Any:
  """Draws left every mu, right the mean beta of kinds of weights at mu = 2^-10 (Figure 7)."""
  made, grid = page(3, 2)
  for (left, right), method in zip(grid, SHOWN[1:], strict=True):
    for result in of_method(list(by_mu(results)), method):
      mu = result.cell.columns["mu"]
      curve(left, result.returns, 40, formula("mu", mu))
      if mu == BETA_MU:
        for name, (episodes, beta) in betas(result).items():
          right.plot(episodes, beta, label=name, lw=1.2)
    left.set(title=METHODS[method][2], xlabel="training episodes", ylabel="return")
    right.set(title=METHODS[method][2], xlabel="training episodes", ylabel="mean $\\beta$")
    left.legend(fontsize=7)
    right.legend(fontsize=7)
  return made


def betas(result: Result) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Returns episodes of a run [N] and mean beta over the runs [N], by kind of weight."""
  # A scalar tuner has one beta for all kinds: the mean.
  episodes = result.metrics["episodes"] / len(result.settings)
  kinds = GROUPS if f"beta/{GROUPS[0]}" in result.metrics else ["mean"]
  return {kind: (episodes, result.metrics[f"beta/{kind}"]) for kind in kinds}


def claim_sweeps(results: list[Result]) -> list[str]:
  """Says how far beta of informative features ends above that of noise (Figure 7)."""
  lines = []
  results = list(by_mu(results))
  for method in SHOWN[1:]:
    # The paper finds the pattern similar for a broad range of mu: how many are close to the best?
    ends = {r.cell.columns["mu"]: final(r.returns) for r in of_method(results, method)}
    close = sum(end > max(ends.values()) - CLOSE for end in ends.values())
    lines.append(
      f"{METHODS[method][2]}: last 100 episodes {min(ends.values()):.1f} to "
      f"{max(ends.values()):.1f} over mu, {close} of {len(ends)} within {CLOSE:g} of the best"
    )
  for result in results:
    found = betas(result) if result.cell.columns["mu"] == BETA_MU else {}
    if len(found) > 1:
      apart = {
        head: found[f"{head}/informative"][1][-1] - found[f"{head}/noise"][1][-1]
        for head in ("value", "policy")
      }
      lines.append(
        f"{title(result)}: beta of informative less that of noise features at the end: value "
        f"{apart['value']:+.2f}, policy {apart['policy']:+.2f}"
      )
  return lines


def figure(
  about: str, cells: tuple[Cell, ...], runs: int, draw: Any, claims: Any, time: str
) -> Figure:
  """Returns a figure of so many runs."""
  cost = Cost(runs, 201 * EPISODES, time, "CPU")
  return Figure(about, cost, cells, bound(cells, QUICK), draw, claims, table)


FIG6 = figure(
  "drifting mountain car: the best mu of no tuning, scalar, vector and mixed, at four drifts",
  cells(DRIFTS, SHOWN),
  # 20 repeats; no tuning has no mu, each of three tuners has six.
  20 * len(DRIFTS) * (1 + 3 * len(MUS)),
  draw_drifts,
  claim_drifts,
  "19 minutes on two busy cores, in machine code",
)
FIG7 = figure(
  "drifting mountain car: six mu of each tuner, and where the step sizes of weights go",
  cells((SWEPT,), SHOWN[1:]),
  20 * 3 * len(MUS),
  draw_sweeps,
  claim_sweeps,
  "half a minute after fig6, whose cells it shares",
)

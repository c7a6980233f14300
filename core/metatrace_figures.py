"""Figures 1 to 7 of the Metatrace paper (Young, Wang and Taylor 2018)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .reproduce import Cell, Figure, Result, final, smooth

CAR, DRIFTING = "experiments/metatrace_mountain_car", "experiments/metatrace_drifting_mountain_car"
QUICK_CAR = (
  "on_device.settings = {'ac_lambda.alpha': (0.0625, 0.0078125, 0.0009765625, 0.0001220703125)}",
  "on_device.repeats = 2",
  "on_device.episodes = 30",
)
QUICK_DRIFTING = ("on_device.repeats = 2", "on_device.episodes = 30")
LEARNS = -180.0  # mean return of the last episodes above which a setting has learned; at worst -200
DRIFTS = (4e-6, 6e-6, 8e-6, 1e-5)
DRIFT_MUS = tuple(range(6, 12))
METHODS = {  # column `tuner` -> tuner, normalised, name in the paper
  "none": ("constant_step", None, "no tuning"),
  "scalar": ("metatrace", True, "normalised scalar Metatrace"),
  "scalar_raw": ("metatrace", False, "unnormalised scalar Metatrace"),
  "sid": ("sid", None, "SID"),
  "nosid": ("nosid", None, "NOSID"),
  "vector": ("metatrace_vector", True, "vector Metatrace"),
  "mixed": ("metatrace_mixed", True, "mixed Metatrace"),
}


def cell(method: str, power: int | None = None, drift: float | None = None) -> Cell:
  """A cell of mountain car, or of drifting mountain car where there is a drift; mu = 2^-power."""
  tuner, normalised, _ = METHODS[method]
  name, bindings = method, [f"tuner = @{tuner}()"]
  columns: dict[str, Any] = {"tuner": method, "mu": "" if power is None else 2.0**-power}
  if power is not None:
    name += f"_mu{power}"
    bindings.append(f"{tuner}.mu = {2.0**-power!r}")
  if normalised is False:
    bindings.append(f"{tuner}.normalised = False")
  if drift is not None:
    name += f"_drift{drift:g}"
    columns["drift"] = drift
    bindings.append(f"drifting_mountain_car.drift = {drift!r}")
  return Cell(name, columns, CAR if drift is None else DRIFTING, tuple(bindings))


# Mountain car: return against episodes for every alpha_0, a panel each mu.


def by_alpha(result: Result) -> dict[float, np.ndarray]:
  """Returns [repeats, E] by alpha_0, the greatest first."""
  alphas = np.array([float(row["ac_lambda.alpha"]) for row in result.settings])
  return {a: result.returns[alphas == a] for a in sorted(set(alphas), reverse=True)}


def title(result: Result) -> str:
  mu = result.cell.columns["mu"]
  name = METHODS[result.cell.columns["tuner"]][2]
  return name if mu == "" else f"{name}, $\\mu = 2^{{{np.log2(mu):.0f}}}$"


def page(rows: int, columns: int) -> tuple[Any, Any]:
  """A matplotlib Figure, without pyplot's global state, and its axes [rows, columns]."""
  from matplotlib.figure import Figure as Page

  made = Page(figsize=(5.2 * columns, 3.4 * rows), layout="constrained")
  return made, made.subplots(rows, columns, squeeze=False)


def curve(axes: Any, returns: np.ndarray, window: int, label: str) -> None:
  axes.plot(
    np.arange(1, returns.shape[1] + 1), smooth(returns, window).mean(0), label=label, lw=1.2
  )


def draw_alphas(results: list[Result]) -> Any:
  """Figures 1 to 5."""
  shown = [r for r in results if r.cell.columns["mu"] != ""] or results
  columns = min(2, len(shown))
  made, grid = page(-(-len(shown) // columns), columns)
  for axes, result in zip(grid.flat, shown, strict=True):
    for alpha, returns in by_alpha(result).items():
      curve(axes, returns, 20, f"$\\alpha_0 = 2^{{{np.log2(alpha):.0f}}}$")
    axes.set(title=title(result), xlabel="training episodes", ylabel="return", ylim=(-205, -95))
  grid.flat[0].legend(fontsize=7, ncols=2)
  return made


def spread(result: Result) -> float:
  """Standard deviation over alpha_0 of the mean return of all episodes."""
  return float(np.std([returns.mean() for returns in by_alpha(result).values()]))


def mean_return(result: Result) -> float:
  return float(result.returns.mean())


def claim_alphas(results: list[Result]) -> list[str]:
  """Figures 1 to 5: how much alpha_0 matters, which mu is best, which alpha_0 still learn."""
  baseline, *tuned = results
  lines = [f"no tuning: spread over alpha_0 {spread(baseline):.1f}, {largest(baseline)}"]
  for result in tuned:
    lines.append(
      f"mu = 2^{np.log2(result.cell.columns['mu']):.0f}: spread {spread(result):.1f}, mean return "
      f"{mean_return(result):.1f} (no tuning {mean_return(baseline):.1f}), {largest(result)}"
    )
  if tuned:
    better = sum(spread(result) < spread(baseline) for result in tuned)
    best = max(tuned, key=mean_return)
    lines += [
      f"the spread shrinks for {better} of {len(tuned)} mu",
      f"the best mu over all alpha_0 is 2^{np.log2(best.cell.columns['mu']):.0f}",
    ]
  return lines


def largest(result: Result) -> str:
  """Which alpha_0 is the largest that still learns."""
  learned = [alpha for alpha, returns in by_alpha(result).items() if final(returns) > LEARNS]
  return f"largest alpha_0 that learns 2^{np.log2(learned[0]):.0f}" if learned else "none learns"


# Drifting mountain car.


def best(results: Sequence[Result], method: str, drift: float) -> Result:
  """Of a method's mu, the best by the mean return of the last 100 episodes."""
  columns = [(r, r.cell.columns) for r in results]
  found = [r for r, c in columns if (c["tuner"], c["drift"]) == (method, drift)]
  return max(found, key=lambda r: final(r.returns))


SHOWN = ("none", "scalar", "vector", "mixed")


def draw_drifts(results: list[Result]) -> Any:
  """Figure 6: the best mu of every method, a panel each drift."""
  made, grid = page(2, 2)
  for axes, drift in zip(grid.flat, DRIFTS, strict=True):
    for method in SHOWN:
      result = best(results, method, drift)
      curve(axes, result.returns, 40, title(result))
    axes.set(title=f"drift = {drift:g}", xlabel="training episodes", ylabel="return")
    axes.legend(fontsize=7)
  return made


def claim_drifts(results: list[Result]) -> list[str]:
  lines = []
  for drift in DRIFTS:
    scores = {method: final(best(results, method, drift).returns) for method in SHOWN}
    order = sorted(scores, key=lambda m: -scores[m])
    told = ", ".join(f"{method} {scores[method]:.1f}" for method in order)
    verdict = "mixed is best" if order[0] == "mixed" else f"not mixed but {order[0]} is best"
    lines.append(f"drift {drift:g}: last 100 episodes: {told}: {verdict}")
  return lines


GROUPS = [f"{head}/{kind}" for head in ("value", "policy") for kind in ("informative", "noise")]
BETA_MU = 2.0**-10


def draw_sweeps(results: list[Result]) -> Any:
  """Figure 7: left every mu, right the mean beta of kinds of weights at mu = 2^-10."""
  made, grid = page(3, 2)
  for (left, right), method in zip(grid, SHOWN[1:], strict=True):
    for result in (r for r in results if r.cell.columns["tuner"] == method):
      mu = result.cell.columns["mu"]
      curve(left, result.returns, 40, f"$\\mu = 2^{{{np.log2(mu):.0f}}}$")
      if mu == BETA_MU:
        for name, (episodes, beta) in betas(result).items():
          right.plot(episodes, beta, label=name, lw=1.2)
    left.set(title=METHODS[method][2], xlabel="training episodes", ylabel="return")
    right.set(title=METHODS[method][2], xlabel="training episodes", ylabel="mean $\\beta$")
    left.legend(fontsize=7)
    right.legend(fontsize=7)
  return made


def betas(result: Result) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Episodes of a run, and mean beta over the runs, by kind of weight (one for a scalar tuner)."""
  episodes = np.array([row["episodes"] for row in result.metrics]) / len(result.settings)
  kinds = GROUPS if f"beta/{GROUPS[0]}" in result.metrics[0] else ["mean"]
  return {
    kind: (episodes, np.array([row[f"beta/{kind}"] for row in result.metrics])) for kind in kinds
  }


def claim_sweeps(results: list[Result]) -> list[str]:
  lines = []
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


def alphas_figure(method: str, powers: Sequence[int]) -> Figure:
  cells = (cell("none"), *(cell(method, power) for power in powers))
  return Figure(cells, QUICK_CAR, draw_alphas, claim_alphas)


def drift_cells(drifts: Sequence[float], methods: Sequence[str]) -> tuple[Cell, ...]:
  return tuple(
    cell(method, power, drift)
    for drift in drifts
    for method in methods
    for power in (DRIFT_MUS if method != "none" else (None,))
  )


FIGURES = {
  "fig1": Figure((cell("none"),), QUICK_CAR, draw_alphas, claim_alphas),
  "fig2": alphas_figure("scalar", range(6, 12)),
  "fig3": alphas_figure("scalar_raw", range(14, 20)),
  "fig4": alphas_figure("sid", range(14, 20)),
  "fig5": alphas_figure("nosid", range(10, 16)),
  "fig6": Figure(drift_cells(DRIFTS, SHOWN), QUICK_DRIFTING, draw_drifts, claim_drifts),
  "fig7": Figure(drift_cells((6e-6,), SHOWN[1:]), QUICK_DRIFTING, draw_sweeps, claim_sweeps),
}

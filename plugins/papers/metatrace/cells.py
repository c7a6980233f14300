"""Cells of the Metatrace paper's grids, and what its figures share."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ....core.api import Cell, Result, episodes, smooth

CAR, DRIFTING = "experiments/metatrace_mountain_car", "experiments/metatrace_drifting_mountain_car"
METHODS = {  # column `tuner` -> tuner, normalised, name in the paper
  "none": ("constant_step", None, "no tuning"),
  "scalar": ("metatrace", True, "normalised scalar Metatrace"),
  "scalar_raw": ("metatrace", False, "unnormalised scalar Metatrace"),
  "sid": ("sid", None, "SID"),
  "nosid": ("nosid", None, "NOSID"),
  "vector": ("metatrace_vector", True, "vector Metatrace"),
  "mixed": ("metatrace_mixed", True, "mixed Metatrace"),
}


ALPHAS = tuple(2.0**-k for k in range(3, 15))  # of mountain car


def cell(
  method: str,
  powers: Sequence[int] = (),
  drift: float | None = None,
  alphas: Sequence[float] = ALPHAS,
  more: Sequence[str] = (),
) -> Cell:
  """Returns a cell, one program: a run for each mu = 2^-power, alpha_0 of mountain car and repeat.

  Args:
    method: a key of `METHODS`.
    powers: of mu; none where the method has no mu.
    drift: of drifting mountain car, which has one alpha_0; None: mountain car.
    alphas: of mountain car.
    more: further bindings.
  """
  tuner, normalised, _ = METHODS[method]
  name, bindings = method, [f"tuner = @{tuner}()"]
  # A cell holds many mu, so its column stays empty; `by_mu` fills it.
  columns: dict[str, Any] = {"tuner": method, "mu": ""}
  settings: dict[str, tuple[float, ...]] = {}
  if powers:
    name += f"_mu{powers[0]}" + (f"to{powers[-1]}" if len(powers) > 1 else "")
    settings[f"{tuner}.mu"] = tuple(2.0**-power for power in powers)
  if drift is None:
    settings["ac_lambda.alpha"] = tuple(alphas)
  # Not `not normalised`: it is None for tuners that have no such setting.
  if normalised is False:
    bindings.append(f"{tuner}.normalised = False")
  if drift is not None:
    name += f"_drift{drift:g}"
    columns["drift"] = drift
    bindings.append(f"drifting_mountain_car.drift = {drift!r}")
  # Every combination of the settings is a run, in each of the repeats that the experiment has.
  bindings += [f"runs.settings = {settings!r}", *more]
  return Cell(name, columns, CAR if drift is None else DRIFTING, tuple(bindings))


def by_mu(results: Iterable[Result]) -> Iterator[Result]:
  """Splits cells that hold several mu: a result each mu, in the order of the cell.

  Metrics are of all runs of a cell, and so not of one mu where it has several.
  """
  for result in results:
    name = f"{METHODS[result.cell.columns['tuner']][0]}.mu"
    if name not in result.settings[0]:
      yield result
      continue
    # Settings are text, as runs.csv has them.
    mus = np.array([float(row[name]) for row in result.settings])
    for mu in dict.fromkeys(mus.tolist()):
      rows = np.flatnonzero(mus == mu)
      settings = [{k: v for k, v in result.settings[i].items() if k != name} for i in rows]
      found = result.cell._replace(columns={**result.cell.columns, "mu": mu})
      yield Result(found, settings, result.returns[rows], result.lengths[rows], result.metrics)


def table(results: Sequence[Result]) -> Iterator[Mapping[str, Any]]:
  """Gives the rows of a figure's table, an episode each; mu is a column."""
  return episodes(list(by_mu(results)))


def of_method(results: Sequence[Result], method: str) -> list[Result]:
  """Selects the results of a method, in the order of their mu."""
  return [result for result in results if result.cell.columns["tuner"] == method]


def title(result: Result) -> str:
  """Names a cell as a picture does: its method, and its mu if it has one."""
  mu = result.cell.columns["mu"]
  name = METHODS[result.cell.columns["tuner"]][2]
  return name if mu == "" else f"{name}, {formula('mu', mu)}"


def power(x: float) -> str:
  """Returns a power of two as text: '2^-8'."""
  return f"2^{np.log2(x):.0f}"


def formula(symbol: str, x: float) -> str:
  """Returns 'symbol = 2^k' as matplotlib sets it."""
  return f"$\\{symbol} = 2^{{{np.log2(x):.0f}}}$"


def shade(axes: Any, count: int) -> None:
  """Sets colours for curves that have an order, as those of alpha_0 from the greatest down."""
  from matplotlib import colormaps

  axes.set_prop_cycle(color=colormaps["viridis_r"](np.linspace(0.05, 1, count)))


def page(rows: int, columns: int) -> tuple[Any, Any]:
  """Makes a matplotlib Figure, without pyplot's global state, and its axes [rows, columns]."""
  from matplotlib.figure import Figure as Page

  made = Page(figsize=(5.2 * columns, 3.4 * rows), layout="constrained")
  return made, made.subplots(rows, columns, squeeze=False)


def curve(axes: Any, returns: np.ndarray, window: int, label: str) -> None:
  """Draws the mean over runs of returns [R, E], smoothed over `window` episodes."""
  axes.plot(
    np.arange(1, returns.shape[1] + 1), smooth(returns, window).mean(0), label=label, lw=1.2
  )

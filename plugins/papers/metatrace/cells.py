"""Cells of the Metatrace paper's grids, and what its figures share."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ....core.api import Cell, Result, smooth

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


def cell(method: str, power: int | None = None, drift: float | None = None) -> Cell:
  """Returns a cell of mountain car, drifting where there is a drift; mu = 2^-power."""
  tuner, normalised, _ = METHODS[method]
  name, bindings = method, [f"tuner = @{tuner}()"]
  columns: dict[str, Any] = {"tuner": method, "mu": "" if power is None else 2.0**-power}
  if power is not None:
    name += f"_mu{power}"
    bindings.append(f"{tuner}.mu = {2.0**-power!r}")
  # None is of tuners without such a setting.
  if normalised is False:
    bindings.append(f"{tuner}.normalised = False")
  if drift is not None:
    name += f"_drift{drift:g}"
    columns["drift"] = drift
    bindings.append(f"drifting_mountain_car.drift = {drift!r}")
  return Cell(name, columns, CAR if drift is None else DRIFTING, tuple(bindings))


def of_method(results: Sequence[Result], method: str) -> list[Result]:
  """Selects the cells of a method, in the order of their mu."""
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

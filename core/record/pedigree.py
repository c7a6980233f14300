"""Pictures of a population's lineage: a panel a setting, its value in every run over env steps.

A line that begins at another one is a copy that left it. The red line is the ancestry of the run
that scored best at the last exchange: what its settings were, whoever had them then.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .lineage import Row, ancestors

Segment = tuple[tuple[float, float], tuple[float, float]]  # from (env steps, value) to such

SPAN = 10  # times the least value that the greatest is, from which on the axis is logarithmic


def panels(rows: Sequence[Row], end: float) -> list[tuple[str, Callable[[Any], None]]]:
  """Returns titles, and what draws each panel into Matplotlib's axes; none without an exchange.

  Args:
    rows: of the lineage.
    end: env steps that the runs have come to.
  """
  if not any(row.exchange for row in rows):
    return []
  names = sorted({name for row in rows for name in row.settings})
  draws = [functools.partial(_draw, rows, name, end, name == names[0]) for name in names]
  return [(f"{name} of each run", draw) for name, draw in zip(names, draws, strict=True)]


def segments(rows: Sequence[Row], name: str, end: float) -> dict[tuple[int, int], list[Segment]]:
  """Finds the lines of a setting: from exchange to exchange, and from a parent to its copy.

  Args:
    rows: of the lineage, in order.
    name: of the setting.
    end: env steps of the last point.

  Returns:
    By exchange and run.
  """
  steps = {row.exchange: float(row.env_steps) for row in rows}
  # A setting holds until the next exchange; after the last one, until `end`.
  until = dict(zip(sorted(steps), [*sorted(steps.values())[1:], end], strict=True))
  before = {(row.exchange, row.run): row.before.get(name) for row in rows}
  found: dict[tuple[int, int], list[Segment]] = {}
  for row in rows:
    start, value = float(row.env_steps), row.settings.get(name)
    if value is None:
      continue
    lines: list[Segment] = [((start, value), (max(until[row.exchange], start), value))]
    # A copy jumps from what its parent had to what it tries; who stays has no jump.
    was = before.get((row.exchange, row.parent))
    if was is not None and was != value:
      lines.insert(0, ((start, was), (start, value)))
    found[row.exchange, row.run] = lines
  return found


def best(rows: Sequence[Row]) -> int:
  """Finds the run with the best score at the last exchange where any had one; else the first."""
  scored = [row for row in rows if row.score is not None]
  last = max((row.exchange for row in scored), default=0)
  of_last = [row for row in scored if row.exchange == last]
  return max(of_last, key=lambda row: row.score or 0.0).run if of_last else 0


def _draw(rows: Sequence[Row], name: str, end: float, told: bool, axes: Any) -> None:
  from matplotlib.collections import LineCollection

  found = segments(rows, name, end)
  every = [line for lines in found.values() for line in lines]
  own = [line for at in ancestors(rows, best(rows)) for line in found.get(at, [])]
  axes.add_collection(LineCollection(every, colors="0.5", linewidths=0.8, alpha=0.8))
  label = f"ancestry of run {best(rows)}"
  axes.add_collection(LineCollection(own, colors="C3", linewidths=1.8, label=label))
  if told:  # once, in the first of these panels
    axes.legend(frameon=False, fontsize=8)
  values = np.array([point[1] for line in every for point in line])
  if values.min() > 0 and values.max() >= SPAN * values.min():
    axes.set_yscale("log")
  else:
    axes.ticklabel_format(axis="y", useOffset=False)
  axes.autoscale_view()

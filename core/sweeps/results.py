"""The table and the plot of a sweep."""

import csv
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..api import files
from ..record.drawing import legend, save
from ..record.labels import digits, told
from .file import Outcome, Sweep

STATUSES = ("finished", "diverged", "pending", "failed")  # the order of the table
LINES = 8  # so many values of a second parameter are lines of a plot, more are points
TICKS = 12  # of a logarithmic axis, at most; they are values of the parameter
WIDTH = 200  # of the table where there is no terminal
WIDE = 5.0  # a parameter whose greatest value is so many times the least has a logarithmic axis


def show(sweep: Sweep, outcomes: Sequence[Outcome], out: Path) -> None:
  """Prints the table, and writes OUT/sweep.csv and OUT/sweep.png."""
  ordered = ranked(sweep, outcomes)
  columns = ["point", *ordered[0].point, sweep.metric, "status", "env_steps", "seconds"]
  # Outcomes are told apart by identity: they hold dicts, which have no hash, and may be equal.
  numbers = {id(outcome): number for number, outcome in enumerate(outcomes)}
  rows = [
    [numbers[id(o)], *o.point.values(), o.metric, o.status, o.env_steps, round(o.seconds, 1)]
    for o in ordered
  ]
  with files.whole(out / "sweep.csv") as file:
    csv.writer(file, lineterminator="\n").writerows([columns, *rows])
  print_table(columns, rows)
  save({out / "sweep.png": draw(sweep, outcomes)})
  print(f"{out / 'sweep'}.csv and .png")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
  """Prints a table as wide as the terminal."""
  from rich.console import Console
  from rich.table import Table

  table = Table(*columns, box=None)
  for row in rows:
    table.add_row(*("" if value is None else digits(value) for value in row))
  # To a file rich would squeeze it into 80 columns. Brackets in a value are no markup of rich's.
  Console(width=None if sys.stdout.isatty() else WIDTH, markup=False).print(table)


def ranked(sweep: Sweep, outcomes: Sequence[Outcome]) -> list[Outcome]:
  """The outcomes, the best first; points that did not finish are last."""

  def rank(outcome: Outcome) -> tuple[int, bool, float]:
    value = math.nan if outcome.metric is None else float(outcome.metric)
    missing = math.isnan(value)
    # NaN is neither less nor greater: in a sort it would leave the others unsorted.
    order = 0.0 if missing else (-value if sweep.maximize else value)
    return STATUSES.index(outcome.status), missing, order

  return sorted(outcomes, key=rank)


def draw(sweep: Sweep, outcomes: Sequence[Outcome]) -> Any:
  """The metric against every parameter that varies, a panel each; a matplotlib Figure.

  Where there are two, the values of the other are lines.
  """
  from matplotlib.figure import Figure

  ended = [o for o in outcomes if o.metric is not None]
  values = {name: _distinct([o.point[name] for o in outcomes]) for name in outcomes[0].point}
  varied = [name for name, found in values.items() if len(found) > 1] or list(values)[:1]
  page = Figure(figsize=(max(5.0, 4.5 * len(varied)), 4.0), layout="constrained")
  panels = page.subplots(1, len(varied), sharey=True, squeeze=False)[0]
  for axes, name in zip(panels, varied, strict=True):
    others = [other for other in varied if other != name]
    # With two others a line would join points that differ in more than is drawn.
    lines = len(others) == 1 and len(values[others[0]]) <= LINES
    for value in values[others[0]] if lines else [None]:
      group = [o for o in ended if not lines or o.point[others[0]] == value]
      group.sort(key=lambda o: values[name].index(o.point[name]))
      style = "o-" if lines or not others else "o"
      # Text makes an axis of categories, in the order in which it is drawn: hence the sort.
      x = [o.point[name] if _numeric(values[name]) else str(o.point[name]) for o in group]
      axes.plot(x, [o.metric for o in group], style, markersize=4)
    if _numeric(values[name]) and 0 < values[name][0] * WIDE <= values[name][-1]:
      axes.set_xscale("log")
      ticks = values[name][:: math.ceil(len(values[name]) / TICKS)]
      axes.set_xticks(ticks, [digits(tick) for tick in ticks], rotation=30)
      axes.minorticks_off()
    axes.set_xlabel(name, parse_math=False)
    for text in axes.get_xticklabels():
      text.set_parse_math(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if lines:
      names = [told({others[0]: value}) for value in values[others[0]]]
      legend(axes, axes.get_lines(), names, fontsize=7)
  panels[0].set_ylabel(sweep.metric, parse_math=False)
  return page


def _distinct(values: Sequence[Any]) -> list[Any]:
  """The values, each once: numbers in order, others as they come."""
  # A set would not do: values may be lists, which have no hash.
  seen = [value for i, value in enumerate(values) if value not in values[:i]]
  return sorted(seen) if _numeric(seen) else seen


def _numeric(values: Sequence[Any]) -> bool:
  return all(isinstance(value, int | float) for value in values)

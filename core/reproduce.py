"""Reproduction of a paper's figure from its grid of experiments, resumable by cell.

Every cell of a grid is a training run like any other, with a workdir of its own, in which it
resumes from its newest checkpoint; figures share the cells that they have in common. When all have
been trained, the figure's table, PNG and claims are made of their logs.
"""

import csv
import math
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from . import train as training
from .api import files, jsonl, registry
from .api.errors import UserError, did_you_mean
from .api.papers import Cell, Figure, Result
from .config import discovery
from .record import metrics
from .record.workdir import Workdir

ROWS = 400  # rows of a run's metrics that are kept: more than a curve needs


def reproduce(name: str, out: Path, quick: bool = False) -> bool:
  """Trains what is missing of a figure and makes it; prints its claims.

  Args:
    name: 'paper/figure'.
    out: folder; cells go to out/<paper>/cells, the table and the PNG beside it.
    quick: a small form of the same, in folders of its own.

  Returns:
    Whether it is complete: not where training was stopped by a signal.

  Raises:
    UserError: there is no such figure.
    RunError: `out` cannot be written.
  """
  figure, (paper, stem) = find(name), name.split("/")
  folder = out / paper / "quick" if quick else out / paper
  # A folder that cannot be written is told of here, before hours of training.
  files.make_folder(folder / "cells")
  cells = figure.quick if quick else figure.cells
  # Cell by cell, each in a workdir: what has been trained is not trained again.
  for number, cell in enumerate(cells):
    workdir = folder / "cells" / cell.name
    # Cells that are done pass without a line: a resumed grid would else list them all again.
    if not Workdir(workdir).done.exists():
      which = f"cell {number + 1}/{len(cells)}: {cell.name}"
      print(f"selftune: {name}: {which}", file=sys.stderr)
    if not training.finish(cell.experiment, cell.bindings, workdir):
      print("selftune: stopped; the same command goes on.", file=sys.stderr)
      return False
  # All cells are trained. What is made of their logs keeps no state: it is made anew every time.
  results = [read(cell, folder / "cells" / cell.name) for cell in cells]
  target = folder / stem
  write_table(target.with_suffix(".csv"), figure.table(results))
  with files.whole(target.with_suffix(".png"), "wb") as file:
    figure.draw(results).savefig(file, format="png", dpi=120)
  for line in figure.claims(results):
    print(line)
  if quick:
    print("(The quick form is too short to compare with the paper.)")
  print(f"{target}.csv and .png")
  return True


def figures() -> dict[str, Figure]:
  """Returns every figure of every paper by name, 'paper/figure'."""
  discovery.load_all()
  papers = registry.plugins()["paper"].values()
  return {name: figure for paper in papers for name, figure in paper().figures().items()}


def find(name: str) -> Figure:
  """Returns the figure called 'paper/figure'.

  Raises:
    UserError: there is none.
  """
  known = figures()
  if name not in known:
    raise UserError(
      f"there is no figure '{name}'.{did_you_mean(name, known)} Figures: {', '.join(known)}."
    )
  return known[name]


def listing() -> str:
  """Describes every figure: what it shows, what it takes in full and on what machine."""
  lines = []
  for name, figure in figures().items():
    cost = figure.cost
    runs = f"{cost.runs:,} run{'s' * (cost.runs > 1)}"
    lines += [
      f"{name}: {figure.about}",
      f"    {runs} of up to {cost.env_steps:,} env steps; {cost.machine}; {cost.time}",
    ]
  lines.append("With --quick each is a matter of minutes on a CPU, too short to compare.")
  return "\n".join(lines)


def read(cell: Cell, workdir: Path) -> Result:
  """Reads the logs of a cell that has been trained: of R runs, or of a single one."""
  # A program of many runs writes this table. A single run has one row of no settings.
  table = workdir / "runs.csv"
  settings: list[dict[str, str]] = [{}]
  if table.exists():
    settings = list(csv.DictReader(files.read(table).splitlines()))
  of_run: list[list[tuple[Any, Any]]] = [[] for _ in settings]
  for row in jsonl.read(workdir / "episodes.jsonl"):
    # Only the log of many runs says of which of them an episode is.
    run, episode = row.get("run", 0), (row.get("return"), row.get("length"))
    if isinstance(run, int) and run < len(settings) and all(map(jsonl.is_number, episode)):
      of_run[run].append(episode)
  # A diverged run scores as the worst: left out, it would make the others' mean look better.
  least = min((value for found in of_run for value, _ in found), default=math.nan)
  # Runs finish different numbers of episodes: rows are padded, with NaN and 0.
  shape = len(settings), max(1, *map(len, of_run))
  returns, lengths = np.full(shape, np.nan), np.zeros(shape, int)
  for run, found in enumerate(of_run):
    # The whole row gets `least`; the episodes that the run did finish then overwrite theirs.
    if settings[run].get("diverged") == "True":
      returns[run] = least
    if found:
      returns[run, : len(found)], lengths[run, : len(found)] = zip(*found, strict=True)
  return Result(cell, settings, returns, lengths, columns(workdir / "metrics.jsonl"))


def columns(path: Path) -> dict[str, np.ndarray]:
  """Reads the numbers of a metrics.jsonl by name, [N] each, of at most ROWS rows, the last too.

  A grid has thousands of runs with tens of thousands of rows, and a curve needs few.
  """
  rows = list(metrics.read(path))
  chosen = np.linspace(0, len(rows) - 1, min(ROWS, len(rows))).round().astype(int)
  kept = [rows[i] for i in chosen]
  names = dict.fromkeys(name for row in kept for name in row)
  number = lambda x: x if jsonl.is_number(x) else np.nan  # JSON's null stands for NaN
  return {name: np.array([number(row.get(name)) for row in kept], float) for name in names}


def write_table(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
  """Writes a CSV with a column for each name in any of the rows; whole or not at all."""
  rows = list(rows)
  with files.whole(path) as file:
    # A dict keeps the order in which names first appear; a set would shuffle the columns.
    names = dict.fromkeys(name for row in rows for name in row)
    table = csv.DictWriter(file, list(names), restval="", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)

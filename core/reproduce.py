"""`selftune reproduce`: a figure of a paper from its grid of experiments, resumable by cell.

Every cell of a grid is a training run like any other, with a workdir of its own, in which it
resumes from its newest checkpoint; figures share the cells that they have in common. When all have
been trained, the figure's table, PNG and claims are made of their logs.
"""

import csv
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import train as training
from .api import files, jsonl, registry
from .api.errors import UserError, did_you_mean
from .api.papers import Cell, Figure, Result
from .config import discovery
from .record.workdir import Workdir


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
  files.make_folder(folder / "cells")
  for number, cell in enumerate(figure.cells):
    workdir = folder / "cells" / cell.name
    if not Workdir(workdir).done.exists():
      which = f"cell {number + 1}/{len(figure.cells)}: {cell.name}"
      print(f"selftune: {name}: {which}", file=sys.stderr)
    bindings = (*cell.bindings, *(figure.quick if quick else ()))
    if not training.finish(cell.experiment, bindings, workdir):
      print("selftune: stopped; the same command goes on.", file=sys.stderr)
      return False
  results = [read(cell, folder / "cells" / cell.name) for cell in figure.cells]
  target = folder / stem
  write_table(target.with_suffix(".csv"), results)
  with files.whole(target.with_suffix(".png"), "wb") as file:
    figure.draw(results).savefig(file, format="png", dpi=120)
  for line in figure.claims(results):
    print(line)
  if quick:
    print("(The quick form is too short to compare with the paper.)")
  print(f"{target}.csv and .png")
  return True


def find(name: str) -> Figure:
  """The figure called 'paper/figure'.

  Raises:
    UserError: there is none.
  """
  discovery.load_all()
  known = {
    name: figure
    for paper in registry.plugins()["paper"].values()
    for name, figure in paper().figures().items()
  }
  if name not in known:
    raise UserError(
      f"there is no figure '{name}'.{did_you_mean(name, known)} Figures: {', '.join(known)}."
    )
  return known[name]


def read(cell: Cell, workdir: Path) -> Result:
  """The logs of a cell that has been trained."""
  settings = list(csv.DictReader(files.read(workdir / "runs.csv").splitlines()))
  of_run: list[list[tuple[Any, Any]]] = [[] for _ in settings]
  for row in jsonl.read(workdir / "episodes.jsonl"):
    run, episode = row.get("run"), (row.get("return"), row.get("length"))
    if isinstance(run, int) and run < len(settings) and all(map(jsonl.is_number, episode)):
      of_run[run].append(episode)
  least = min((value for found in of_run for value, _ in found), default=math.nan)
  shape = len(settings), max(1, *map(len, of_run))
  returns, lengths = np.full(shape, np.nan), np.zeros(shape, int)
  for run, found in enumerate(of_run):
    if settings[run]["diverged"] == "True":
      returns[run] = least
    if found:
      returns[run, : len(found)], lengths[run, : len(found)] = zip(*found, strict=True)
  return Result(cell, settings, returns, lengths, list(jsonl.read(workdir / "metrics.jsonl")))


def write_table(path: Path, results: Sequence[Result]) -> None:
  """One row an episode of a run of a cell, those that a diverged run missed too."""
  own = list(dict.fromkeys(name for result in results for name in result.cell.columns))
  shown = [name for name in results[0].settings[0] if "." in name or name == "seed"]
  with files.whole(path) as file:
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow([*own, *shown, "run", "episode", "return", "length"])
    for cell, settings, returns, lengths, _ in results:
      left = [cell.columns.get(name, "") for name in own]
      for run, row in enumerate(settings):
        head = [*left, *(row.get(name, "") for name in shown), run]
        scored = np.flatnonzero(~np.isnan(returns[run]))
        rows.writerows([*head, e, returns[run, e], lengths[run, e]] for e in scored)

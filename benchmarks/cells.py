"""Cells of a benchmark's table: each is told as soon as it is measured, and may fail alone."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from selftune.core.api.errors import RunError
from selftune.core.machine import shortage

Cell = dict[str, Any]


def add_option(parser: argparse.ArgumentParser) -> None:
  """Adds `--json`."""
  parser.add_argument(
    "--json", type=Path, metavar="FILE", help="append a line a cell, as soon as it is measured"
  )


def attempt(measure: Callable[[], Cell]) -> Cell:
  """What `measure` gives; where there is too little memory for it, a cell that says so."""
  try:
    with shortage.explained(""):
      return measure()
  except RunError:
    return {"error": "out of memory"}


def tell(path: Path | None, **cell: Any) -> None:
  """Appends a cell to a file, if one is asked for, with the most memory that was in use so far."""
  if path is None:
    return
  statistics = jax.local_devices()[0].memory_stats() or {}  # a CPU has none
  if peak := statistics.get("peak_bytes_in_use"):
    cell["peak_mib_so_far"] = round(peak / 2**20)
  with path.open("a", encoding="utf-8") as file:
    file.write(json.dumps(cell) + "\n")

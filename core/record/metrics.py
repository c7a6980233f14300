"""The rows of metrics.jsonl, by the names that metrics have today."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..api import jsonl

RENAMED = {"eta": "tuned", "eta_raw": "eta"}  # first parts of names, of runs before 0.2.0


def read(path: Path) -> Iterator[dict[str, Any]]:
  """Reads the rows of such a file, as `jsonl.read` does.

  Raises:
    UserError: it cannot be read.
  """
  return map(_as_today, jsonl.read(path))


def _as_today(row: dict[str, Any]) -> dict[str, Any]:
  """Returns a row with today's names: one of before has `eta_raw/` beside every `eta/`."""
  if not any(name.startswith("eta_raw/") for name in row):
    return row
  # Each name once: an `eta_raw/` that becomes `eta/` is not taken on to `tuned/`.
  parts = ((name.partition("/"), value) for name, value in row.items())
  return {RENAMED.get(first, first) + slash + rest: value for (first, slash, rest), value in parts}

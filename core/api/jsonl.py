"""JSON lines: files of strict JSON, one object a line, that survive kill -9 and a resume."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from . import files

_ENCODER = json.JSONEncoder(allow_nan=False)  # made once: there may be thousands of lines a second


def encode(row: Mapping[str, Any]) -> str:
  """Returns a row as one line of strict JSON.

  Floats keep float32's 7 digits; NaN and infinity, which JSON lacks, become null.
  """
  return _ENCODER.encode({k: _tidy(v) for k, v in row.items()}) + "\n"


def _tidy(value: Any) -> Any:
  if isinstance(value, list):
    return [_tidy(item) for item in value]
  if not isinstance(value, float):
    return value
  # float32 widened to float64 has nine digits that mean nothing.
  return float(f"{value:.7g}") if math.isfinite(value) else None


def read(path: Path) -> Iterator[dict[str, Any]]:
  """Reads the rows of a file; a line torn by a killed process, or no object, is left out.

  NaN and infinity, which are no JSON, become None as `encode` has them.

  Raises:
    UserError: it cannot be read.
  """
  try:
    with path.open("rb") as file:
      for line in file:
        try:
          row = json.loads(line, parse_constant=lambda _: None)
        except (ValueError, RecursionError):
          continue
        if isinstance(row, dict):
          yield row
  except OSError as error:
    raise files.cannot_read(path, error) from error


def is_number(value: Any) -> TypeGuard[float]:
  """Says whether something read is a finite number."""
  return isinstance(value, int | float) and math.isfinite(value)


def series(rows: Iterable[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
  """Returns env steps and the value of `key` of every row that has both, in order."""
  pairs = ((row.get("env_steps"), row.get(key)) for row in rows)
  return [(steps, value) for steps, value in pairs if is_number(steps) and is_number(value)]


def truncate(path: Path, env_steps: int) -> None:
  """Drops rows beyond `env_steps`, which a resumed run will write again.

  The file is replaced in one step: a kill in the middle leaves the old one whole.
  """
  if not path.exists():
    return
  with files.whole(path) as file:
    for row in read(path):
      steps = row.get("env_steps")
      if not is_number(steps) or steps <= env_steps:
        file.write(json.dumps(row) + "\n")

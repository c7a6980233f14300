"""Files of strict JSON, one object a line, that survive kill -9 and go on after a resume."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from . import files


def encode(row: Mapping[str, Any]) -> str:
  """One line. Floats keep float32's 7 digits; NaN and infinity, which JSON lacks, become null."""

  def tidy(value):
    if isinstance(value, list):
      return [tidy(item) for item in value]
    if not isinstance(value, float):
      return value
    return float(f"{value:.7g}") if math.isfinite(value) else None

  return json.dumps({k: tidy(v) for k, v in row.items()}, allow_nan=False) + "\n"


def read(path: Path) -> Iterator[dict[str, Any]]:
  """The rows of a file; a line torn by a killed process is left out.

  Raises:
    UserError: it cannot be read.
  """
  try:
    with path.open("rb") as file:
      for line in file:
        try:
          row = json.loads(line)
        except ValueError:
          continue
        yield row
  except OSError as error:
    raise files.cannot_read(path, error) from error


def truncate(path: Path, env_steps: int) -> None:
  """Drops rows beyond `env_steps`, which a resumed run will write again.

  The file is replaced in one step: a kill in the middle leaves the old one whole.
  """
  if not path.exists():
    return
  with files.whole(path) as file:
    for row in read(path):
      if row["env_steps"] <= env_steps:
        file.write(json.dumps(row) + "\n")

"""The lineage of a population: WORKDIR/lineage.jsonl, a row for each run at every exchange.

A row holds `env_steps` (of all runs together, as in metrics.jsonl), `exchange` (0 is the start),
`run`, `parent` (its own number: it stayed), `score` (null of a run without any), `diverged`, each
setting by name from now on, and what it was as `before/<name>`.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..api import files, jsonl
from ..api.errors import RunError

FILE = "lineage.jsonl"
BEFORE = "before/"
SETTINGS = "settings/"  # before the name of a setting, in metrics
Settings = Mapping[str, Sequence[float]]  # 'component.field' -> R numbers
_OWN = ("env_steps", "exchange", "run", "parent")


class Exchange(NamedTuple):
  """An exchange that was made."""

  number: int  # 1 is the first; 0 is the start
  parents: np.ndarray  # [R] int
  scores: np.ndarray  # [R]
  before: Settings
  after: Settings

  @property
  def copies(self) -> bool:
    """Whether any run is replaced."""
    return bool(np.any(self.parents != np.arange(len(self.parents))))

  def rows(self, env_steps: int) -> list[dict[str, Any]]:
    """Returns its rows, a run each; `env_steps` are those of all runs together."""
    return [
      {
        "env_steps": env_steps,
        "exchange": self.number,
        "run": run,
        "parent": int(parent),
        "score": float(self.scores[run]),
        # That is a score of -inf, which JSON lacks: like NaN it becomes null in the file.
        "diverged": bool(np.isneginf(self.scores[run])),
        **{name: float(values[run]) for name, values in self.after.items()},
        **{BEFORE + name: float(values[run]) for name, values in self.before.items()},
      }
      for run, parent in enumerate(self.parents)
    ]


def start(settings: Settings) -> Exchange:
  """Returns exchange 0, the start, where runs begin with these settings and nobody has a score."""
  runs = len(next(iter(settings.values())))
  return Exchange(0, np.arange(runs), np.full(runs, np.nan), settings, settings)


class Row(NamedTuple):
  """One run at one exchange."""

  env_steps: int
  exchange: int
  run: int
  parent: int
  score: float | None
  settings: dict[str, float]  # from now on
  before: dict[str, float]


def begin(path: Path, resumed_at: int) -> None:
  """Drops the rows that a resumed population will write again; a new population drops all.

  Args:
    path: of the file.
    resumed_at: env steps of the checkpoint; 0 of a new run.
  """
  # Rows of the start are at 0 env steps, so a new run drops what is beyond -1.
  jsonl.truncate(path, resumed_at or -1)


def append(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
  """Writes the rows of an exchange; they are on the disk when it returns.

  Raises:
    RunError: they cannot be written.
  """
  try:
    with path.open("a", encoding="utf-8") as file:
      file.write("".join(map(jsonl.encode, rows)))
      file.flush()
      os.fsync(file.fileno())  # a checkpoint may follow, after which no run writes them again
  except OSError as error:
    raise RunError(
      f"cannot write {path}: {files.reason(error)}. Checkpoints written before are whole: go on by "
      "--resume."
    ) from error


def read(path: Path) -> list[Row]:
  """Reads the rows that are whole; none where there is no such file."""
  return [_row(row) for row in (jsonl.read(path) if path.is_file() else ()) if _is_whole(row)]


def _is_whole(row: Mapping[str, Any]) -> bool:
  return all(type(row.get(name)) is int for name in _OWN)


def _row(row: Mapping[str, Any]) -> Row:
  numbers = {name: value for name, value in row.items() if jsonl.is_number(value)}
  # Settings are named 'component.field', and what they were has BEFORE in front of that.
  settings = {name: x for name, x in numbers.items() if "." in name and "/" not in name}
  before = {name: numbers[BEFORE + name] for name in settings if BEFORE + name in numbers}
  steps, exchange, run, parent = (row[name] for name in _OWN)
  return Row(steps, exchange, run, parent, numbers.get("score"), settings, before)


def ancestors(rows: Sequence[Row], run: int) -> list[tuple[int, int]]:
  """Follows a run back to the start.

  Args:
    rows: of the lineage.
    run: where it ends.

  Returns:
    Each exchange, and the number of the run in which its learner was from then on; in order.
  """
  path, at = [], run
  parents = {(row.exchange, row.run): row.parent for row in rows}
  for exchange in sorted({row.exchange for row in rows}, reverse=True):
    path.append((exchange, at))
    # Before this exchange the learner was in the run that this one became a copy of.
    at = parents.get((exchange, at), at)
  return path[::-1]

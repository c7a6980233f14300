"""`metrics.jsonl` and `episodes.jsonl` in the workdir: the history that every run has."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, TextIO

from ...core import jsonl
from ...core.episodes import Episode
from ...core.errors import RunError, UserError
from ...core.interfaces import RunInfo
from ...core.registry import register


@register("writer", "jsonl")
@dataclasses.dataclass(frozen=True)
class Jsonl:
  """One JSON object a row in WORKDIR/metrics.jsonl, one an episode in WORKDIR/episodes.jsonl.

  Every row is flushed at once. A resumed run first drops what lies beyond its checkpoint, so that
  `env_steps` never goes back.
  """

  required: ClassVar[bool] = True

  def open(self, run: RunInfo) -> "_Files":
    workdir = Path(run.workdir)
    try:
      workdir.mkdir(parents=True, exist_ok=True)
      return _Files(*(_open(workdir / f"{n}.jsonl", run) for n in ("metrics", "episodes")))
    except OSError as error:
      raise UserError(
        f"cannot write the metrics of the run: {error}. Choose another --workdir."
      ) from error


class _Files:
  def __init__(self, metrics: TextIO, episodes: TextIO) -> None:
    self._metrics, self._episodes = metrics, episodes

  def write(self, row: Mapping[str, float]) -> None:
    _append(self._metrics, jsonl.encode(row))

  def write_episodes(self, episodes: Sequence[Episode]) -> None:
    _append(self._episodes, "".join(jsonl.encode(_row(episode)) for episode in episodes))

  def close(self) -> None:
    self._metrics.close()
    self._episodes.close()


def _append(file: TextIO, text: str) -> None:
  try:
    file.write(text)
    file.flush()
  except OSError as error:
    raise RunError(
      f"cannot write {file.name}: {error.strerror}. The checkpoints are whole: go on by --resume."
    ) from error


def _row(e: Episode) -> Mapping[str, float]:
  row = {"env_steps": e.env_steps, "return": float(e.episode_return), "length": e.length}
  return row if e.run is None else row | {"run": e.run}


def _open(path: Path, run: RunInfo) -> TextIO:
  if run.resumed_at > 0:
    jsonl.truncate(path, run.resumed_at)
  return path.open("a" if run.resumed_at > 0 else "w", encoding="utf-8")

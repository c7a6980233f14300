"""Returns as CSV."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, TextIO

from selftune import Episode, RunInfo, register


@register("writer", "returns_csv")
@dataclasses.dataclass(frozen=True)
class ReturnsCsv:
  """WORKDIR/returns.csv: env steps and raw return of every finished episode."""

  required: ClassVar[bool] = False  # if it fails, the run warns once and goes on

  def open(self, run: RunInfo) -> "File":
    file = Path(run.workdir, "returns.csv").open("a" if run.resumed_at else "w", encoding="utf-8")
    return File(file)


class File:
  """Called from one thread of its own: it may take its time."""

  def __init__(self, file: TextIO):
    self._file = file

  def write(self, row: Mapping[str, float]) -> None:
    del row  # metrics

  def write_episodes(self, episodes: Sequence[Episode]) -> None:
    self._file.writelines(f"{e.env_steps},{e.episode_return}\n" for e in episodes)
    self._file.flush()

  def close(self) -> None:
    self._file.close()

"""The JSON-lines writer: the history of every run, one object a line, in its workdir."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from ...core.api import Episode, Histogram, RunError, RunInfo, files, jsonl, register

METRICS, EPISODES = "metrics.jsonl", "episodes.jsonl"
EVALUATIONS, HISTOGRAMS = "eval.jsonl", "histograms.jsonl"


@register("writer", "jsonl")
@dataclasses.dataclass(frozen=True)
class Jsonl:
  """One JSON object a row in WORKDIR/metrics.jsonl, one an episode in WORKDIR/episodes.jsonl.

  Where there are any, evaluations beside training get one each in WORKDIR/eval.jsonl, histograms
  in WORKDIR/histograms.jsonl: `env_steps`, `name`, `counts` and `edges`. Every row is flushed at
  once. A resumed run first drops what lies beyond its checkpoint, so that `env_steps`
  never goes back.
  """

  required: ClassVar[bool] = True

  def open(self, run: RunInfo) -> "_Files":
    """Opens the log in the workdir, without the rows that a resumed run will write again.

    Raises:
      RunError: the disk does not take it.
    """
    workdir = Path(run.workdir)
    files.make_folder(workdir)
    for name in (METRICS, EPISODES, EVALUATIONS, HISTOGRAMS):
      # -1 of a run from nothing, which writes rows of 0 env steps again, too.
      jsonl.truncate(workdir / name, run.resumed_at or -1)
    opened = _Files(workdir)
    for name in (METRICS, EPISODES):
      # Files of no row are made as well: readers take a missing one for a mistake.
      opened.append(name, "")
    return opened


class _Files:
  """The files of a log, opened for each write alone: those of a thousand runs would be too many."""

  def __init__(self, workdir: Path) -> None:
    self._workdir = workdir

  def write(self, row: Mapping[str, float]) -> None:
    """Writes a row to metrics.jsonl; raises as `append`."""
    self.append(METRICS, jsonl.encode(row))

  def write_episodes(self, episodes: Sequence[Episode]) -> None:
    """Writes a line an episode to episodes.jsonl; raises as `append`."""
    self.append(EPISODES, "".join(jsonl.encode(_row(episode)) for episode in episodes))

  def write_evaluation(self, row: Mapping[str, float]) -> None:
    """Writes scores to eval.jsonl; raises as `append`."""
    self.append(EVALUATIONS, jsonl.encode(row))

  def write_histograms(self, histograms: Mapping[str, Histogram], row: Mapping[str, float]) -> None:
    """Writes a line a histogram, [N] and [N + 1], to histograms.jsonl; raises as `append`."""
    for name, (counts, edges) in histograms.items():
      of_bins = {"counts": np.asarray(counts, int).tolist(), "edges": np.asarray(edges).tolist()}
      line = jsonl.encode({"env_steps": row["env_steps"], "name": name, **of_bins})
      self.append(HISTOGRAMS, line)

  def close(self) -> None:
    """Does nothing: no file is held open."""

  def append(self, name: str, text: str) -> None:
    """Writes to a file, or makes it; raises RunError if the disk does not take it."""
    path = self._workdir / name
    with _explained(path), path.open("a", encoding="utf-8") as file:
      file.write(text)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
  """Makes a RunError of what is wrong with the disk, around a write."""
  try:
    yield
  except OSError as error:
    raise RunError(
      f"cannot write {path}: {files.reason(error)}. Checkpoints written before are whole: "
      "go on by --resume."
    ) from error


def _row(e: Episode) -> Mapping[str, float]:
  """Returns an episode as a row; `return` is raw, `length` in transitions."""
  row = {"env_steps": e.env_steps, "return": float(e.episode_return), "length": e.length}
  return row if e.run is None else row | {"run": e.run}

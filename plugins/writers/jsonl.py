"""The history of every run: files of JSON objects, one a line, in its workdir."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, TextIO

import numpy as np

from ...core import jsonl
from ...core.episodes import Episode
from ...core.errors import RunError, UserError
from ...core.histograms import Histogram
from ...core.interfaces import RunInfo
from ...core.registry import register

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
    workdir = Path(run.workdir)
    try:
      workdir.mkdir(parents=True, exist_ok=True)
      metrics, episodes = (_open(workdir / f"{n}.jsonl", run) for n in ("metrics", "episodes"))
      for name in (EVALUATIONS, HISTOGRAMS):
        jsonl.truncate(workdir / name, run.resumed_at)
      return _Files(metrics, episodes, workdir)
    except OSError as error:
      raise UserError(
        f"cannot write the metrics of the run: {error}. Choose another --workdir."
      ) from error


class _Files:
  def __init__(self, metrics: TextIO, episodes: TextIO, workdir: Path) -> None:
    self._metrics, self._episodes, self._workdir = metrics, episodes, workdir

  def write(self, row: Mapping[str, float]) -> None:
    _append(self._metrics, jsonl.encode(row))

  def write_episodes(self, episodes: Sequence[Episode]) -> None:
    _append(self._episodes, "".join(jsonl.encode(_row(episode)) for episode in episodes))

  def write_evaluation(self, row: Mapping[str, float]) -> None:
    self._append_to(EVALUATIONS, jsonl.encode(row))

  def write_histograms(self, histograms: Mapping[str, Histogram], row: Mapping[str, float]) -> None:
    for name, (counts, edges) in histograms.items():
      of_bins = {"counts": np.asarray(counts, int).tolist(), "edges": np.asarray(edges).tolist()}
      line = jsonl.encode({"env_steps": row["env_steps"], "name": name, **of_bins})
      self._append_to(HISTOGRAMS, line)

  def close(self) -> None:
    self._metrics.close()
    self._episodes.close()

  def _append_to(self, name: str, text: str) -> None:
    """To a file that is only there if something was written."""
    path = self._workdir / name
    with _explained(path), path.open("a", encoding="utf-8") as file:
      file.write(text)


def _append(file: TextIO, text: str) -> None:
  with _explained(Path(file.name)):
    file.write(text)
    file.flush()


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
  """Around a write: what is wrong with the disk becomes a RunError."""
  try:
    yield
  except OSError as error:
    raise RunError(
      f"cannot write {path}: {error.strerror}. The checkpoints are whole: go on by --resume."
    ) from error


def _row(e: Episode) -> Mapping[str, float]:
  row = {"env_steps": e.env_steps, "return": float(e.episode_return), "length": e.length}
  return row if e.run is None else row | {"run": e.run}


def _open(path: Path, run: RunInfo) -> TextIO:
  if run.resumed_at > 0:
    jsonl.truncate(path, run.resumed_at)
  return path.open("a" if run.resumed_at > 0 else "w", encoding="utf-8")

"""Logging: rows, episodes and pictures of a run go to every configured writer.

Each writer has a thread and a bounded queue of its own, so that a writer is called from one thread
only and a slow one does not delay the other writers. A writer is `required` (the JSONL history:
checkpoints wait for its rows, and when it fails, the run ends) or not (a network service: it opens
in its own thread, however long that takes, and when it fails, there is one warning).
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..api.contracts import (
  RunInfo,
  TakesEvaluations,
  TakesHistograms,
  TakesMedia,
  WriterPlugin,
)
from ..api.errors import RunError
from .episodes import Episode
from .histograms import Histogram, is_finite
from .lane import PATIENCE, Lane

_LOG = logging.getLogger(__name__)


class Logger:
  """The open log of one run; a context manager.

  Used from the main thread, but for `log_evaluation`, `log_media` and `flush`, called from any.
  """

  def __init__(
    self, writers: Mapping[str, WriterPlugin], run: RunInfo, wall_offset: float = 0.0
  ) -> None:
    """Opens the writers.

    Args:
      writers: writer plugins by name. A required one that cannot open raises; any other opens in
        its thread, and is left out with a warning if it cannot.
      run: what is logged.
      wall_offset: seconds that the run had taken before it was resumed.
    """
    self.run = run
    self._start = time.monotonic() - wall_offset
    self._lanes: list[Lane] = []
    # Required ones first: if one cannot open, no thread of another has begun anything.
    for name, plugin in sorted(writers.items(), key=lambda item: not item[1].required):
      try:
        self._lanes.append(Lane(name, plugin, run))
      except Exception:
        self.close()
        raise

  @property
  def wall_time(self) -> float:
    """Seconds that the run has taken, over all its processes."""
    return time.monotonic() - self._start

  def log(self, row: Mapping[str, Any], env_steps: int) -> None:
    """Hands a row of host scalars to the writers, with `env_steps` and `wall_time` added.

    Histograms in the row go to the writers that take any; one of numbers that were not all finite
    is left out.

    Raises:
      ValueError: a metric is neither a scalar nor a Histogram.
      Exception: whatever a required writer failed with since the last call.
    """
    numbers = {"env_steps": int(env_steps), "wall_time": self.wall_time}
    histograms: dict[str, Histogram] = {}
    for key, value in row.items():
      if isinstance(value, Histogram):
        if is_finite(value):
          histograms[key] = value
      elif np.size(value) != 1:
        raise ValueError(f"metric '{key}' has shape {np.shape(value)}; log scalars and histograms.")
      else:
        # Converted here, once: in their threads writers would each wait for the device.
        numbers[key] = np.asarray(value).item()
    self._submit(lambda writer: writer.write(numbers))
    if histograms:
      self._submit(lambda writer: writer.write_histograms(histograms, numbers), TakesHistograms)

  def log_episodes(self, episodes: Sequence[Episode]) -> None:
    """Hands finished episodes to the writers; raises as `log` does."""
    if episodes:
      held = tuple(episodes)
      self._submit(lambda writer: writer.write_episodes(held))

  def log_evaluation(self, row: Mapping[str, float]) -> None:
    """Hands the scores of an evaluation to the writers that take any; raises as `log` does."""
    self._submit(lambda writer: writer.write_evaluation(row), TakesEvaluations)

  def log_media(self, name: str, path: Path) -> None:
    """Hands a picture or video to the writers that take any; raises as `log` does."""
    self._submit(lambda writer: writer.write_media(name, path), TakesMedia)

  def flush(self, patience: float = PATIENCE) -> None:
    """Waits until the required writers have written all that was logged, however long they take.

    Args:
      patience: seconds within which each of them takes a row at least.

    Raises:
      Exception: whatever a required writer failed with, RunError if it hangs.
    """
    for lane in self._lanes:
      if lane.required:
        lane.flush(patience)

  def close(self, patience: float = PATIENCE) -> None:
    """Writes what is queued and closes the writers, required ones first; idempotent.

    Args:
      patience: as in `flush`; and seconds in which all the others are to finish.

    Raises:
      Exception: as `flush`.
    """
    # Taken away first: a second call, as by `__exit__` after an error, finds nothing to do.
    lanes, self._lanes = self._lanes, []
    failures = [lane.finish(patience) for lane in lanes if lane.required]
    # Begun only now: the others are not to lose the time that the required ones took.
    deadline = time.monotonic() + patience
    for lane in lanes:
      if not lane.required:
        lane.give_up(deadline)
    for failure in failures:
      if failure is not None:
        raise failure

  def _submit(self, task: Callable[[Any], object], taker: type = object) -> None:
    """Queues a task for every writer that is a `taker`."""
    for lane in self._lanes:
      # Asked in the writer's own thread: one that is not required may not have opened yet.
      lane.submit(lambda writer: task(writer) if isinstance(writer, taker) else None)

  def __enter__(self) -> "Logger":
    return self

  def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
    try:
      self.close()
    except Exception as error:
      if kind is None:
        raise
      # What ended the run matters more than what then befell its log; and of a full disk, say,
      # which both failed for, one message is enough.
      if not (kind is RunError and type(error) is RunError):
        _LOG.warning("the log could not be closed: %r", error)

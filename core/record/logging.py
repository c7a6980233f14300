"""Logging: rows, episodes and pictures of a run go to every configured writer.

Each writer has a thread and a bounded queue of its own, so that a writer is called from one thread
only and a slow one delays neither training nor the other writers. A writer is `required` (the JSONL
history: when it fails, the run ends) or not (a network service: it opens in its own thread, however
long that takes, and when it fails, there is one warning).
"""

import contextlib
import functools
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..api import checks
from ..api.contracts import (
  RunInfo,
  TakesEvaluations,
  TakesHistograms,
  TakesMedia,
  Writer,
  WriterPlugin,
)
from ..api.errors import RunError
from .episodes import Episode
from .histograms import Histogram, is_finite

QUEUE_SIZE = 16_384  # rows and updates that had episodes, while a writer opens
PATIENCE = 30.0  # seconds that log() waits for a required writer whose queue is full

_LOG = logging.getLogger(__name__)


class Logger:
  """The open log of one run; a context manager.

  Used from the main thread, but for `log_evaluation` and `log_media`: those may be called from any.
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
    self._lanes: list[_Lane] = []
    # Required ones first: if one cannot open, no thread of another has begun anything.
    for name, plugin in sorted(writers.items(), key=lambda item: not item[1].required):
      try:
        self._lanes.append(_Lane(name, plugin, run))
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

  def flush(self, timeout: float = PATIENCE) -> None:
    """Waits until the required writers have written all that was logged; raises as `log` does."""
    for lane in self._lanes:
      if lane.required:
        lane.flush(timeout)

  def close(self, timeout: float = 30.0) -> None:
    """Writes what is queued and closes the writers, required ones first; idempotent.

    Raises:
      Exception: whatever a required writer failed with, TimeoutError if it does not finish.
    """
    deadline = time.monotonic() + timeout
    # Taken away first: a second call, as by `__exit__` after an error, finds nothing to do.
    lanes, self._lanes = self._lanes, []
    failures = [lane.finish(deadline) for lane in lanes]
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


Task = Callable[[Any], object] | threading.Event  # of the writer; or what is set when it is reached


class _Lane:
  """One writer, with the queue and the only thread that calls it."""

  def __init__(self, name: str, plugin: WriterPlugin, run: RunInfo) -> None:
    self._open = functools.partial(checks.opened, plugin, run)
    self._writer: Writer | None = self._open() if plugin.required else None
    self._name, self.required = name, plugin.required
    self._failure: Exception | None = None
    self._warned: set[str] = set()
    self._queue: queue.Queue[Task | None] = queue.Queue(QUEUE_SIZE)
    # A daemon: a writer that hangs must not keep the process from ending.
    self._thread = threading.Thread(target=self._drain, name=f"log-{name}", daemon=True)
    self._thread.start()

  def submit(self, task: Task) -> None:
    """Queues a task for the writer's thread; raises what a required writer has failed with."""
    if self._failure is not None:
      raise self._failure
    try:
      self._queue.put(task, timeout=PATIENCE if self.required else 0)
    except queue.Full:
      if self.required:
        raise self._stuck(PATIENCE) from None
      self._warn_once("slow", "is too slow, rows are dropped")

  def flush(self, timeout: float) -> None:
    """Waits until the writer has done all that was queued before.

    Raises:
      Exception: whatever it failed with.
      TimeoutError: it has not, within so many seconds.
    """
    done = threading.Event()
    # Tasks are taken in order, so this one is taken when all before it have been.
    self.submit(done)
    if not done.wait(timeout) and self._failure is None:
      raise self._stuck(timeout)
    # One of those before it may have failed only now.
    if self._failure is not None:
      raise self._failure

  def finish(self, deadline: float) -> Exception | None:
    """Closes the writer; returns what a required one failed with."""
    begun = time.monotonic()
    try:
      self._queue.put(None, timeout=max(0.0, deadline - begun))
    except queue.Full:
      # The thread is stuck in the writer, as the join below says; it ends if it ever wakes.
      with contextlib.suppress(queue.Empty, queue.Full):
        self._queue.get_nowait()
        self._queue.put_nowait(None)
    self._thread.join(max(0.0, deadline - time.monotonic()))
    if self._thread.is_alive():
      if self.required:
        return self._failure or self._stuck(time.monotonic() - begun)
      self._warn_once("stuck", "did not finish in time, its last rows may be missing")
    return self._failure

  def _drain(self) -> None:
    """Does the queued tasks in order; the body of the thread."""
    if self._writer is None:
      try:
        self._writer = self._open()
      except Exception as error:
        self._warn_once("closed", f"did not open, going on without it: {error}")
    while (task := self._queue.get()) is not None:
      if isinstance(task, threading.Event):
        task.set()
      elif self._failure is None:  # after a failure the queue is only emptied
        self._guard(task)
    self._guard(lambda writer: writer.close())

  def _guard(self, task: Callable[[Any], object]) -> None:
    """Does a task; keeps a required writer's failure for the main thread, warns of another's."""
    if self._writer is None:
      return
    try:
      task(self._writer)
    except Exception as error:
      if not self.required:
        self._warn_once("failed", f"failed, training goes on: {error!r}")
      elif self._failure is None:
        error.add_note(f"The log writer '{self._name}' failed with this.")
        self._failure = error

  def _warn_once(self, kind: str, message: str) -> None:
    if kind not in self._warned:
      self._warned.add(kind)
      _LOG.warning("writer '%s' %s", self._name, message)

  def _stuck(self, seconds: float) -> TimeoutError:
    return TimeoutError(
      f"The log writer '{self._name}' has taken no row for {seconds:.0f} s: "
      "does the disk of the workdir hang?"
    )

"""One writer of a log: its queue, and the only thread that calls it."""

import contextlib
import functools
import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from ..api import checks
from ..api.contracts import RunInfo, Writer, WriterPlugin
from ..api.errors import RunError

QUEUE_SIZE = 16_384  # rows and updates that had episodes, while a writer opens
PATIENCE = 30.0  # seconds without a row that is taken, after which a required writer hangs

_LOG = logging.getLogger(__name__)

Task = Callable[[Any], object] | threading.Event  # of the writer; or what is set when it is reached


class Lane:
  """A writer with its queue and its thread."""

  def __init__(self, name: str, plugin: WriterPlugin, run: RunInfo) -> None:
    self._open = functools.partial(checks.opened, plugin, run)
    self._writer: Writer | None = self._open() if plugin.required else None
    self._name, self.required = name, plugin.required
    self._failure: Exception | None = None
    self._warned: set[str] = set()
    self._queue: queue.Queue[Task | None] = queue.Queue(QUEUE_SIZE)
    self._taken = 0  # tasks so far: whoever waits for the thread sees by it whether it hangs
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

  def flush(self, patience: float) -> None:
    """Waits until the required writer has done all that was queued before.

    Raises:
      Exception: whatever it failed with.
      RunError: it takes no task for so many seconds.
    """
    done = threading.Event()
    # Tasks are taken in order, so this one is taken when all before it have been.
    self.submit(done)
    if not self._waited(done.wait, patience) and self._failure is None:
      raise self._stuck(patience)
    # One of those before it may have failed only now.
    if self._failure is not None:
      raise self._failure

  def finish(self, patience: float) -> Exception | None:
    """Closes the required writer once it has done all; returns what `flush` would raise."""
    self._end(patience)
    ended = self._waited(self._joined, patience)
    return self._failure if ended or self._failure else self._stuck(patience)

  def give_up(self, deadline: float) -> None:
    """Closes the writer that is not required, and leaves it behind where that takes too long."""
    left = lambda: max(0.0, deadline - time.monotonic())
    self._end(left())
    if not self._joined(left()):
      self._warn_once("stuck", "did not finish in time, its last rows may be missing")

  def _end(self, patience: float) -> None:
    """Asks the thread to end after what is queued."""
    try:
      self._queue.put(None, timeout=patience)
    except queue.Full:
      # The thread is stuck in the writer, as whoever joins it will say; it ends if it ever wakes.
      with contextlib.suppress(queue.Empty, queue.Full):
        self._queue.get_nowait()
        self._queue.put_nowait(None)

  def _joined(self, timeout: float) -> bool:
    self._thread.join(timeout)
    return not self._thread.is_alive()

  def _waited(self, reached: Callable[[float], bool], patience: float) -> bool:
    """Waits for something for as long as the thread takes a task within `patience` seconds.

    Args:
      reached: waits for it for at most so many seconds, and says whether it is reached.
      patience: in seconds.

    Returns:
      Whether it was reached.
    """
    while True:
      seen = self._taken
      if reached(patience):
        return True
      if seen == self._taken:
        return False

  def _drain(self) -> None:
    """Does the queued tasks in order; the body of the thread."""
    if self._writer is None:
      try:
        self._writer = self._open()
      except Exception as error:
        self._warn_once("closed", f"did not open, going on without it: {error}")
    while (task := self._queue.get()) is not None:
      self._taken += 1
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
    except BaseException as raised:  # sys.exit, too, which would else end this thread in silence
      error = raised if isinstance(raised, Exception) else self._ended(raised)
      if not self.required:
        self._warn_once("failed", f"failed, training goes on: {error!r}")
      elif self._failure is None:
        error.add_note(f"The log writer '{self._name}' failed with this.")
        self._failure = error

  def _warn_once(self, kind: str, message: str) -> None:
    if kind not in self._warned:
      self._warned.add(kind)
      _LOG.warning("writer '%s' %s", self._name, message)

  def _ended(self, raised: BaseException) -> RunError:
    return RunError(f"the log writer '{self._name}' raised {raised!r}.")

  def _stuck(self, seconds: float) -> RunError:
    return RunError(
      f"the log writer '{self._name}' has taken no row for {seconds:.0f} s: does the disk of the "
      "workdir hang? Checkpoints written before are whole: go on by --resume."
    )

"""The process of a command: what signals do to it, and its standard streams.

Imports next to nothing, so that `begin` can be the first thing that a command does.
"""

import atexit
import contextlib
import errno
import io
import os
import select
import signal
import sys
import threading
from types import FrameType
from typing import TextIO

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SHOW_CURSOR = "\x1b[?25h"  # which a progress bar hides

_ending = threading.Lock()
_begun: int | None = None  # id of the process that has called `begin`: a fork inherits this number


def begin() -> None:
  """Makes signals end this process at once, and keeps it from failing by what it prints.

  For the main thread of a process that is ours alone: nothing of it is undone. Only the first call
  counts, and in a forked child the first of its own.
  """
  global _begun
  if _begun == os.getpid():
    return
  _begun = os.getpid()
  atexit.register(_ignore_signals)  # the first, which is called last
  end_on_signals()
  # Before any pipe is made: a pipe takes the lowest free numbers, those of closed streams first.
  _open_closed_streams()
  threading.Thread(target=_listen, args=(_wakeups(),), name="signals", daemon=True).start()
  _leave_wakeups_to_the_parent()
  sys.stdout, sys.stderr = output(1, sys.stdout), output(2, sys.stderr)


def end_on_signals() -> None:
  """Makes signals end this process; also where a library has taken them in the meantime."""
  for number in heeded():
    signal.signal(number, end)


def heeded() -> list[signal.Signals]:
  """Lists the signals that count: not those that this process was started to ignore (nohup).

  Ctrl-C always does: a shell's script has what it starts in the background ignore it, but whoever
  presses it, or sends it on purpose, means all of them.
  """
  return [n for n in SIGNALS if n == signal.SIGINT or signal.getsignal(n) != signal.SIG_IGN]


def end(number: int, frame: FrameType | None = None) -> None:
  """Handles a signal: says so, and ends this process whatever it is doing.

  It raises nothing: libraries catch what is raised, and Python itself drops it in a callback and
  prints it at exit.
  """
  del frame
  if _ending.acquire(blocking=False):  # else another thread is about to
    by = signal.Signals(number).name
    what = "interrupted" if number == signal.SIGINT else f"ended by {by}"
    _tell(f"{SHOW_CURSOR if os.isatty(2) else ''}selftune: {what}.\n")
    # The exit code that shells give to a process which a signal has ended.
    os._exit(128 + number)


def _tell(text: str) -> None:
  """Writes to stderr from a handler; not by print, amid which the signal may have come."""
  with contextlib.suppress(OSError):  # SIGHUP: the terminal may be gone
    if select.select([], [2], [], 0)[1]:  # else a pipe is full, and nobody reads it
      os.write(2, text.encode())


def _ignore_signals() -> None:
  """Ignores signals at exit, when all is done: else Python restores what kills without a word."""
  for number in SIGNALS:
    signal.signal(number, signal.SIG_IGN)


class Stop:
  """Handler of signals that asks a run to save and end; a second Ctrl-C ends it at once.

  Python calls a handler in the main thread alone, and only when that comes back from native code:
  compiling may take minutes. What cannot wait for it is in `heard`.

  Attributes:
    asked: whether the run is to end.
  """

  def __init__(self) -> None:
    self.asked = False
    self._hard = signal.getsignal(signal.SIGINT) is end  # a process of ours
    self._told = threading.Lock()
    self._interrupts = 0

  def __call__(self, number: int, frame: FrameType | None) -> None:
    """Handles a signal, in the main thread: asks for the end, or at a second Ctrl-C ends it.

    Raises:
      KeyboardInterrupt: at that one, where the process is not selftune's own.
    """
    if self.asked and number == signal.SIGINT:
      if self._hard:
        end(number)
      signal.signal(number, signal.SIG_DFL)  # a third one does not wait for anything to be closed
      raise KeyboardInterrupt
    self.asked = True
    self._tell(number)

  def heard(self, number: int) -> None:
    """Notes a signal at once, in the thread that listens for signals, where there is one."""
    self._interrupts += number == signal.SIGINT
    if self._interrupts > 1 and self._hard:
      end(number)
    self._tell(number)

  def _tell(self, number: int) -> None:
    # A lock that is never released: both threads come here, and one line is enough.
    if self._told.acquire(blocking=False):
      _tell(f"\n{signal.Signals(number).name}: saving and stopping.\n")


def _wakeups() -> int:
  """Opens a pipe into which every signal writes a byte as soon as it has come; its reading end."""
  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
  return reader


def _leave_wakeups_to_the_parent() -> None:
  """Makes forked children write nothing into the pipe: their signals would end their parent."""
  # Blocked from before the fork until the child has let go of the pipe: no signal comes between.
  masks: list[set[int]] = []

  def unblock() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, masks.pop())

  def in_child() -> None:
    signal.set_wakeup_fd(-1)
    unblock()

  block = lambda: masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS))
  os.register_at_fork(before=block, after_in_parent=unblock, after_in_child=in_child)


def _listen(wakeups: int) -> None:
  """Handles at once what cannot wait for the main thread, which may be in native code."""
  while came := os.read(wakeups, 1):
    handler = signal.getsignal(came[0])
    if isinstance(handler, Stop):
      handler.heard(came[0])
    elif handler is end:
      end(came[0])


def _open_closed_streams() -> None:
  """Opens 0, 1 and 2 where they are closed: else the next file is, and gets what is printed."""
  for number, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDONLY)):
    try:
      os.fstat(number)
    except OSError:
      os.open(os.devnull, mode)  # of the other direction: using it fails, as it should


def output(number: int, before: TextIO | None) -> TextIO:
  """Opens a stream to a file descriptor: like Python's own, `before`, but that it never raises."""
  # Who watches sees every line at once; a file or a pipe of stdout is written in blocks.
  at_once = number == 2 or os.isatty(number) or os.environ.get("PYTHONUNBUFFERED")
  return io.TextIOWrapper(
    io.BufferedWriter(_Output(number, "w", closefd=False)),
    encoding=before.encoding if before else "utf-8",
    errors="backslashreplace",  # the name of a folder may hold what the encoding does not
    line_buffering=bool(at_once),
  )


class _Output(io.FileIO):
  """A file that loses what cannot be written to it: training goes on when its reader does not.

  Attributes:
    failure: the first error; None while all has been written.
  """

  failure: OSError | None = None

  def write(self, data) -> int:  # type: ignore[override]
    """Writes bytes, and keeps the first error in place of raising it: then all count as written."""
    try:
      while (written := super().write(data)) is None:  # a pipe that another program made not wait
        select.select([], [self], [])
      return written
    except OSError as error:
      self.failure = self.failure or error
      # As if all were written: of less the buffer would keep the rest, and try it again and again.
      return len(data)


def output_failure() -> str | None:
  """Says why stdout could not be written, after `begin`; a reader that is gone is no failure."""
  sys.stdout.flush()
  failure: OSError | None = sys.stdout.buffer.raw.failure  # type: ignore
  gone = (errno.EPIPE, errno.EIO)  # a pipe's, a terminal's
  return None if failure is None or failure.errno in gone else failure.strerror

"""Supervision of one process of a job of several: a parent that outlives what XLA does to it.

When a process of a job is lost, JAX's coordination service aborts the others from a C++ thread,
with a page of its log. The parent, which has not imported JAX, makes that one line, exit code 1.
"""

import ctypes
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import NoReturn

from ..api.errors import RunError
from . import process

# A line of XLA's log about a lost process: severity and date, time, thread, source file.
_XLA = re.compile(rb"[EFW]\d{4} [\d:.]+ +\d+ (preemption_sync|coordination_service|client\.h)")
_PR_SET_PDEATHSIG = 1

POLL = 0.05  # seconds between looks at the child

LOST = (
  "a process of the job was lost, or never came: this one ends. The checkpoints are whole: start "
  "the job again with --resume, with as many processes as there are."
)


def supervised(run: Callable[[], int]) -> int:
  """Runs a function in a child process, which gets signals passed on, and dies with this one.

  Args:
    run: returns an exit code; JAX is imported within it and not before, as it survives no fork.

  Raises:
    RunError: it was killed: by the loss of another process, or otherwise.
  """
  reader, writer = os.pipe()
  parent = os.getpid()
  signal.pthread_sigmask(signal.SIG_BLOCK, process.SIGNALS)  # until they can be passed on
  child = os.fork()
  if child == 0:
    process.begin()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, process.SIGNALS)
    os.close(reader)
    _be_child(run, parent, writer)
  # Else the pipe never ends: its writing end would stay open here after the child is gone.
  os.close(writer)
  pass_on = lambda number, frame: os.kill(child, number)
  before = {number: signal.signal(number, pass_on) for number in process.heeded()}
  signal.pthread_sigmask(signal.SIG_UNBLOCK, process.SIGNALS)
  lost = threading.Event()
  forwarding = threading.Thread(target=_forward, args=(reader, lost), daemon=True)
  forwarding.start()
  code = os.waitstatus_to_exitcode(_wait(child))
  forwarding.join(5.0)  # a process that the child has left behind may hold its stderr open
  for number, handler in before.items():
    signal.signal(number, handler)
  if code and lost.is_set():
    raise RunError(LOST)
  if code < 0:
    raise RunError(f"killed by {signal.Signals(-code).name}: start the job again with --resume.")
  return code


def _wait(child: int) -> int:
  """Waits for the child; its status."""
  # It looks now and then: a signal that comes just before a blocking wait is handled after it.
  while True:
    pid, status = os.waitpid(child, os.WNOHANG)
    if pid:
      return status
    time.sleep(POLL)


def _be_child(run: Callable[[], int], parent: int, stderr: int) -> NoReturn:
  """Runs in the child, and ends it at once: JAX at exit waits for processes that may be lost."""
  os.setsid()  # a Ctrl-C comes once, from the parent
  # The child dies with its parent, even where that is killed by SIGKILL and can pass nothing on.
  ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
  if os.getppid() != parent:  # it died between the fork and prctl, which then sends no signal
    os._exit(1)
  # Results go to a copy of the true stdout, before 1 and 2 become the pipe to the parent.
  sys.stdout = process.output(os.dup(1), sys.stdout)
  os.dup2(stderr, 2)
  os.dup2(stderr, 1)  # what C++ prints is no result of ours
  os.close(stderr)
  try:
    code = run()
  except BaseException:
    traceback.print_exc()
    code = 1
  sys.stdout.flush()
  sys.stderr.flush()
  if code == 0 and "jax" in sys.modules:
    sys.modules["jax"].distributed.shutdown()  # waits for the others
  os._exit(code)


def _forward(reader: int, lost: threading.Event) -> None:
  """Passes the child's stderr on, until it or XLA says that a process was lost."""
  with open(reader, "rb") as lines:
    for line in lines:
      if _XLA.match(line) or LOST.encode() in line:
        lost.set()
      elif not lost.is_set() and not line.startswith(b"[Gloo]"):
        sys.stderr.buffer.write(line)
        sys.stderr.flush()

"""The lock of a folder, for one writer at a time: it says who holds it, and no dead process does.

The kernel's own lock on the file, flock, ends with its process, by kill -9 too; and on most shared
disks it counts on every host. Not on all: so the holder also gives a sign of life, the time of the
file's last change, every BEAT seconds. Whoever finds the file of another machine unlocked looks for
that sign. No clocks are compared.
"""

import contextlib
import datetime
import fcntl
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..api.errors import RunError, UserError

BEAT = 5.0  # seconds between two signs of life; well below SILENCE: some may be lost
SILENCE = 30.0  # seconds without one after which a holder counts as dead
POLL = 0.2  # seconds between two looks

_LOG = logging.getLogger(__name__)
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Lock(NamedTuple):
  """A lock that is held."""

  descriptor: int  # of its file: a process that inherits it holds the lock as well
  check: Callable[[], None]  # raises RunError if another process has taken the lock


@contextlib.contextmanager
def alone(path: Path, advice: str, wait: float = 0.0, keep: bool = False) -> Iterator[Lock]:
  """Holds the lock `path`, a file in the folder that it is of: no other process does meanwhile.

  Args:
    path: the file; made, and removed at the end.
    advice: what to do if the lock is held, for the message.
    wait: seconds to wait for the holder to end.
    keep: leave the file, empty, at the end: processes that inherited the lock may go on.

  Raises:
    UserError: another process holds it; names that.
    OSError: the file cannot be written.
  """
  mine = {
    "host": socket.gethostname(),
    "pid": os.getpid(),
    "since": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    # Not the host's name: containers on one machine have their own, and one kernel with its locks.
    "machine": _BOOT.read_text("utf-8").strip() if _BOOT.exists() else socket.gethostname(),
    "id": secrets.token_hex(8),
  }
  descriptor = _taken(path, mine, advice, wait)
  ended, rival = threading.Event(), {}

  def beat() -> None:
    while not ended.wait(BEAT):
      with contextlib.suppress(OSError):  # of a shared disk that is away for a moment
        os.utime(descriptor)
        # Someone took a stopped process (SIGSTOP, a laptop's lid) for dead: it must not go on.
        found = _holder(path)
        if found and found["id"] != mine["id"]:
          rival.update(found)

  def check() -> None:
    if rival:
      raise RunError(f"{_told(path, rival)}, which took it over: this process ends.")

  thread = threading.Thread(target=beat, name="lock", daemon=True)
  thread.start()
  try:
    yield Lock(descriptor, check)
  finally:
    ended.set()
    thread.join()
    with contextlib.suppress(OSError):
      # While it is still locked, so that whoever has opened it finds by `_same_file` that it is
      # gone. A file to keep is only emptied: processes that inherited the lock hold this very one.
      if _holder(path) == mine:  # not what another has taken
        os.ftruncate(descriptor, 0) if keep else path.unlink()
    os.close(descriptor)


def _taken(path: Path, mine: dict[str, Any], advice: str, wait: float) -> int:
  """Takes the lock; the descriptor of its file, which now names this process as the holder."""
  deadline, waiting = time.monotonic() + wait, False
  while True:
    with contextlib.ExitStack() as unless_taken:
      # Not truncated: until the lock is ours the text in the file is its holder's.
      descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
      unless_taken.callback(os.close, descriptor)
      free, counts = _flock(descriptor)
      holder = _holder(path)
      # One of this machine has ended: the kernel would hold its lock.
      here = counts and holder is not None and holder["machine"] == mine["machine"]
      if free and (holder is None or here or not _beats(path, holder)):
        # Between our open and our flock the holder may have ended and removed the file: then what
        # is locked has no name, and the next process would make and lock another.
        if _same_file(path, descriptor):
          _write(path, descriptor, mine)
          unless_taken.pop_all()
          return descriptor
      elif time.monotonic() >= deadline:
        raise UserError(f"{_told(path, holder)}: {advice}")
      elif not waiting:
        waiting = True
        _LOG.warning("%s: waiting up to %.0f s for its end.", _told(path, holder), wait)
    time.sleep(POLL)


def _write(path: Path, descriptor: int, mine: dict[str, Any]) -> None:
  """Writes who holds the lock; on a full disk leaves no file that names nobody."""
  try:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(mine).encode(), 0)
  except OSError:
    path.unlink()
    raise


def _flock(descriptor: int) -> tuple[bool, bool]:
  """Tries to lock the file; whether none else has, and whether this file system knows locks."""
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    return False, True
  except OSError:
    return True, False
  return True, True


def _holder(path: Path) -> dict[str, Any] | None:
  """Reads what the file says of its holder; None if it has none, or is gone."""
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
    return found if {"host", "pid", "since", "machine", "id"} <= found.keys() else None
  except (FileNotFoundError, ValueError, AttributeError):
    return None


def _beats(path: Path, holder: dict[str, Any]) -> bool:
  """Says whether the holder gives a sign of life within SILENCE seconds; waits for one."""
  _LOG.warning("%s, or was: waiting %.0f s for a sign of life.", _told(path, holder), SILENCE)
  seen, deadline = _changed(path), time.monotonic() + SILENCE
  while time.monotonic() < deadline:
    time.sleep(POLL)
    if (now := _changed(path)) != seen:
      return now is not None  # None: it has ended
  return False


def _changed(path: Path) -> int | None:
  """Returns the time of the file's last change, in ns; None if the file is gone."""
  # Opened anew: NFS then asks the server (close-to-open), where stat may answer from a cache.
  try:
    with path.open("rb") as file:
      return os.fstat(file.fileno()).st_mtime_ns
  except FileNotFoundError:
    return None


def _same_file(path: Path, descriptor: int) -> bool:
  """Says whether an open file is still the one of this name."""
  try:
    return os.path.samestat(path.stat(), os.fstat(descriptor))
  except FileNotFoundError:
    return False


def _told(path: Path, holder: dict[str, Any] | None) -> str:
  """Says in words who holds the lock."""
  who = "another process"
  if holder:
    who = f"process {holder['pid']} of {holder['host']}, since {holder['since']}"
  return f"{path.parent} is in use by {who}"

"""Shortage of memory for what was asked: one message that says what to make smaller."""

import contextlib
import errno
import os
from collections.abc import Iterator

import jax

from ..api.errors import RunError, UserError

# Lower bounds, in bytes: what is refused cannot work, what is let through may still be too much.
TRANSITION = 20  # of a trajectory: action, reward, discount, first, version, one observed number
END = 9  # of `Ends`, a transition: whether an episode ended, its return and length
ENVIRONMENT = 1000  # of one environment on the host


def check(needed: int, what: str) -> None:
  """Refuses what no machine like this can hold, before it is brought to its knees by trying.

  Args:
    needed: bytes in memory at once, at least.
    what: the settings that ask for it.

  Raises:
    RunError: says how much is needed, and is there.
  """
  # Physical memory, not what is free: caches are given up when it is needed.
  there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  if needed > there:
    raise RunError(
      f"{what} takes at least {needed / 1e9:,.0f} GB of memory; this machine has "
      f"{there / 1e9:,.0f} GB."
    )


@contextlib.contextmanager
def explained(smaller: str) -> Iterator[None]:
  """Makes a RunError of an allocation that fails within it, on the host or a device.

  It does so as well where another layer has wrapped that exception as a failure of its own, as the
  writing of a checkpoint does.

  Args:
    smaller: what to do about it.
  """
  try:
    yield
  except (UserError, RunError):
    raise
  except Exception as error:
    if (said := _shortage(error)) is None:
      raise
    raise RunError(f"out of memory: {said} {smaller}") from error


def _shortage(error: BaseException | None) -> str | None:
  """Returns what a failed allocation says, if one is at the root of an exception; else None."""
  while error is not None:
    said = " ".join(str(error).split())[:300]
    of_jax = isinstance(error, jax.errors.JaxRuntimeError)
    if of_jax and ("RESOURCE_EXHAUSTED" in said or "out of memory" in said.lower()):
      return said if said.endswith(".") else f"{said}."
    if isinstance(error, MemoryError):  # NumPy's own, too
      return f"{said or 'of the host'}."
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
      return f"{error.strerror}."
    error = error.__cause__ or error.__context__
  return None

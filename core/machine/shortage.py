"""Too little memory for what was asked: one message that says what to make smaller."""

import contextlib
import errno
import os
from collections.abc import Iterator

import jax

from ..api.errors import RunError, UserError

TRANSITION = 20  # bytes at least: action, reward, discount, first, version, one observed number
END = 9  # bytes of a transition that says whether an episode ended, its return and length
ENVIRONMENT = 1000  # bytes at least, of one on the host


def check(needed: int, what: str) -> None:
  """Refuses what no machine like this can hold, before it is brought to its knees by trying.

  Args:
    needed: bytes in memory at once, at least.
    what: the settings that ask for it.

  Raises:
    RunError: says how much is needed, and is there.
  """
  there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  if needed > there:
    raise RunError(
      f"{what} takes at least {needed / 1e9:,.0f} GB of memory; this machine has "
      f"{there / 1e9:,.0f} GB."
    )


@contextlib.contextmanager
def explained(smaller: str) -> Iterator[None]:
  """Within it, an allocation that fails, of the host or a device, becomes a RunError.

  Also where another layer has taken it for a failure of its own, as a checkpoint's being written.

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
  """What an allocation that failed says, if it is at the root of an exception."""
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

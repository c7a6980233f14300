"""What went wrong when a checkpoint was read or written, as it is told to the user."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from ...api import files
from ...api.errors import UserError

# What befalls the machine, and says nothing of the file that was read.
_OF_MACHINE = (errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE, errno.EACCES, errno.EPERM)
_OF_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EACCES, errno.EIO)


def check_machine(path: Path, error: BaseException) -> None:
  """Tells a machine that cannot read now from a checkpoint that is damaged.

  Args:
    path: of the checkpoint.
    error: that reading it has raised.

  Raises:
    UserError: the machine cannot read it.
    MemoryError: there is too little memory to read it.
  """
  for cause in _causes(error):
    if isinstance(cause, MemoryError) or _is(cause, errno.ENOMEM):
      raise MemoryError(f"to read {path}") from error
    for number in _OF_MACHINE:
      if _is(cause, number):
        said = files.cannot_read(path, OSError(number, os.strerror(number)))
        advice = "It may be whole: mend that; or move it elsewhere, to go back to the one before."
        raise UserError(f"{said} {advice}") from error


def reason(error: BaseException) -> str:
  """Says what is wrong with the disk; or gives the first line of an error: Orbax's fill pages."""
  for number in _OF_DISK:
    if _is(error, number):
      return files.reason(OSError(number, os.strerror(number)))
  lines = str(error).strip().splitlines()
  return f"{type(error).__name__}: {lines[0][:160] if lines else ''}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
  """Yields an error, and what led to it."""
  while error is not None:
    yield error
    error = error.__cause__ or error.__context__


def _is(error: BaseException, number: int) -> bool:
  # By its text: TensorStore, which reads and writes arrays, raises errors without numbers.
  return os.strerror(number) in str(error)

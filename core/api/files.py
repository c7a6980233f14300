"""Files on disk: written whole or not at all, and one message where that cannot be."""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from .errors import RunError, UserError

FULL = (errno.ENOSPC, errno.EDQUOT)  # a disk, or a user's share of it


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
  """Gives the name of a file that takes the place of `path` once the block has ended well.

  A kill or an error in the middle leaves `path` as it was; two writers have a file each.

  Raises:
    RunError: it cannot be written.
  """
  # In the same folder, as a rename is atomic within a file system only; the suffix tells formats.
  new = path.with_name(f".{secrets.token_hex(8)}{path.suffix}")
  try:
    yield new
    try:
      new.replace(path)
    except OSError as error:
      raise cannot_write(path, error) from error
  except BaseException:
    with contextlib.suppress(OSError):
      new.unlink()
    raise


@contextlib.contextmanager
def whole(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
  """Opens a file that is written whole or not at all; raises as `replacing`.

  Args:
    path: of the file.
    mode: `w` for text, which is UTF-8 with line ends as given; `wb` for bytes.
  """
  encoding, newline = (None, None) if "b" in mode else ("utf-8", "")
  with replacing(path) as new:
    try:
      with new.open(mode, encoding=encoding, newline=newline) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())  # else a crash may leave the new name with nothing in it
    except OSError as error:
      raise cannot_write(path, error) from error


def write(path: Path, text: str) -> None:
  """Writes a text whole or not at all; raises as `whole`."""
  with whole(path) as file:
    file.write(text)


def read(path: Path) -> str:
  """Reads a text file, UTF-8.

  Raises:
    UserError: it cannot be read, or is in another encoding.
  """
  try:
    return path.read_text(encoding="utf-8")
  except OSError as error:
    raise cannot_read(path, error) from error
  except UnicodeDecodeError as error:
    raise UserError(f"{path} is no UTF-8: save it as UTF-8.") from error


def make_folder(path: Path) -> None:
  """Makes a folder, and those above it, unless it is there.

  Raises:
    RunError: it cannot be made.
  """
  try:
    path.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise cannot_write(path, error) from error


def check_folder(path: Path, asked: str) -> None:
  """Refuses a folder that cannot be written, by the one above it where it is not there yet.

  Args:
    path: of the folder.
    asked: what the user wrote, for the message.

  Raises:
    UserError: it cannot be written.
  """
  # os.path: Path.exists raises where a folder above may not be read.
  existing = next(p for p in (path, *path.absolute().parents) if os.path.exists(p))
  if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
    raise UserError(f"{asked}: cannot write to {existing}; choose another folder.")


def cannot_read(path: Path, error: OSError) -> UserError:
  """Makes the error of a file that cannot be read: one line."""
  return UserError(f"cannot read {path}: {reason(error)}.")


def cannot_write(path: Path, error: OSError) -> RunError:
  """Makes the error of a file or folder that cannot be written: one line."""
  return RunError(f"cannot write {path}: {reason(error)}.")


def reason(error: OSError) -> str:
  """Returns what the system says of an error, and what helps if a disk is full."""
  if isinstance(error, FileExistsError):
    return "a file of that name is in the way"
  said = error.strerror or str(error)
  return f"{said}; free space on its disk" if error.errno in FULL else said

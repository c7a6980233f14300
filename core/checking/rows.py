"""Checks, and the rows of the table that they make: what was checked, and what came of it."""

import traceback
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

from ..api.errors import RunError, UserError, shortened

OK, FAILED, SKIPPED = "ok", "FAILED", "-"
_HERE = Path(__file__).parents[2]


class Found(NamedTuple):
  """What a check found where nothing is wrong."""

  number: float | None = None  # how near it was to failing, such as a relative error
  note: str = ""  # what the number is, or what was looked at


class Check(NamedTuple):
  """One thing to check."""

  part: str  # what is checked: 'loss @my_loss()'
  name: str  # what of it: 'shapes'
  run: Callable[[], Found]  # raises what is wrong: Failed, or whatever a plugin raises
  needs: tuple[str, ...] = ()  # parts without which it says nothing; its own is one


class Row(NamedTuple):
  """What came of a check."""

  part: str
  check: str
  verdict: str  # OK, FAILED or SKIPPED
  number: float | None = None
  note: str = ""


class Failed(Exception):
  """What a check found is wrong; `number` says how much, where it has one."""

  def __init__(self, note: str, number: float | None = None):
    super().__init__(note)
    self.number = number


class NotChecked(Exception):
  """A check cannot be made of this plugin; the message says why."""


def made(check: Check, failed: Collection[str]) -> Row:
  """Makes a check, and returns its row; what a plugin raises is a row too.

  Args:
    check: to make.
    failed: parts of which a check has failed.
  """
  lost = next((part for part in (check.part, *check.needs) if part in failed), None)
  row = Row(check.part, check.name, SKIPPED)
  # After one failure the part is not asked again: the rest would tell of the same fault.
  if lost is not None:
    return row._replace(note=f"not reached: {lost} failed")
  try:
    found = check.run()
  except NotChecked as reason:
    return row._replace(note=str(reason))
  except Failed as error:
    return row._replace(verdict=FAILED, number=error.number, note=str(error))
  except (UserError, RunError) as error:
    return row._replace(verdict=FAILED, note=str(error))
  # It is no `Exception`: a plugin that calls sys.exit() would end all checks without a table.
  except SystemExit as error:
    return row._replace(verdict=FAILED, note=f"it calls sys.exit({error.code!r})")
  except Exception as error:  # a plugin may raise anything, and its author is to know where
    note = f"{type(error).__name__}: {shortened(str(error))}{_where(error)}"
    return row._replace(verdict=FAILED, note=note)
  return row._replace(verdict=OK, number=found.number, note=found.note)


def first_failure(rows: Collection[Row]) -> Row | None:
  """Returns the first row of what failed; None where nothing did."""
  return next((row for row in rows if row.verdict == FAILED), None)


def _where(error: Exception) -> str:
  """Says where an exception comes from: the last line that is neither a library's nor core's."""
  frames = traceback.extract_tb(error.__traceback__)
  # Packaged plugins count as the author's, so only `core` of this package is left out.
  theirs = [
    f
    for f in frames
    if "site-packages" not in f.filename
    and not f.filename.startswith(("<", str(_HERE / "core")))
    and "/lib/python" not in f.filename
  ]
  return f" ({theirs[-1].filename}:{theirs[-1].lineno})" if theirs else ""

"""Exit codes, and the one line on stderr that says why one is not 0."""

import errno
import sys
from collections.abc import Callable

from ..api.errors import RunError, UserError
from ..machine import process

# The last one is 128 + SIGINT: so shells report a process that a signal ended.
OK, FAILED, USER_MISTAKE, INTERRUPTED = 0, 1, 2, 130


def exit_code(run: Callable[[], int]) -> int:
  """Returns what `run` does, or the code of the error that it raises, told on stderr.

  Whatever else is raised is a bug and keeps its traceback.
  """
  try:
    return run()
  except UserError as error:
    return fail(str(error), USER_MISTAKE)
  except RunError as error:
    return fail(str(error), FAILED)
  except OSError as error:  # of a file that nobody expected to be bad
    # Without a file it is a bug, and not the user's disk.
    if error.filename is None:
      raise
    # Only a name that the user wrote can be too long; all else befell the run.
    code = USER_MISTAKE if error.errno == errno.ENAMETOOLONG else FAILED
    return fail(f"{error.filename}: {error.strerror}.", code)
  except SystemExit as error:  # of a plugin: it would end the run as if nothing had happened
    return fail(f"the run was ended by code that it calls: sys.exit({error.code!r}).", FAILED)
  except KeyboardInterrupt:
    return fail("interrupted.", INTERRUPTED)


def printed(code: int) -> int:
  """Returns the exit code; that of a failure where what the command has printed is lost."""
  lost = process.output_failure()
  return code if lost is None else fail(f"cannot write to the standard output: {lost}.", FAILED)


def fail(message: str, code: int) -> int:
  """Tells why a command failed, and returns its exit code."""
  say(message)
  return code


def say(message: str) -> None:
  """Shows a message on stderr as one of selftune."""
  print(f"selftune: {message}", file=sys.stderr)

"""The command line: its commands, and how one of them is run.

A command is a module of its own with its arguments and its handler. These import nothing heavy but
in their handlers, so that `--help` answers at once.
"""

import argparse
import contextlib
import io
import logging
import sys
from collections.abc import Iterator, Sequence

from ..api.errors import UserError
from ..machine import process, variables
from . import arguments, check, config, eval, plot, plugins, report, reproduce, study, sweep, train
from .exits import OK, USER_MISTAKE, exit_code, fail, printed, say

COMMANDS: tuple[arguments.Command, ...]  # in the order of --help
COMMANDS = (train, eval, plot, report, reproduce, sweep, study, plugins, config, check)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one command and returns its exit code: 0, 1 if the run failed, 2 for a user's mistake.

  Whatever else is raised is a bug and keeps its traceback.

  Args:
    argv: its arguments; None for those of this process, which is then the command's alone, with its
      signals and standard streams.
  """
  if argv is not None:
    return _main(argv)
  process.begin()
  try:
    return printed(_main(sys.argv[1:]))
  except SystemExit as helped:
    # argparse raises this, with code 0, once it has printed the help.
    if helped.code:
      raise
    return printed(OK)


def parse(argv: Sequence[str]) -> argparse.Namespace:
  """Parses the arguments of one of the commands; raises as `arguments.parse`."""
  return arguments.parse(argv, COMMANDS)


def _main(argv: Sequence[str]) -> int:
  if isinstance(sys.stdout, io.TextIOWrapper):  # what its encoding lacks, as on stderr
    sys.stdout.reconfigure(errors="backslashreplace")
  with _warnings_shown():
    try:
      # Not within `exit_code`, which takes a SystemExit for a plugin's: that of --help is to pass.
      given = parse(argv)
    except UserError as mistake:
      return fail(str(mistake), USER_MISTAKE)
    return exit_code(lambda: _run(given))


def _run(given: argparse.Namespace) -> int:
  # This comes first: a wrong value of a JAX_ variable is one line then, and no traceback.
  variables.try_imports()
  return given.run(given)


class _OneLine(logging.Handler):
  """Shows a log record as one line on stderr, whatever stderr is by then."""

  def emit(self, record: logging.LogRecord) -> None:
    """Shows one record."""
    say(record.getMessage().replace("\n", " "))


@contextlib.contextmanager
def _warnings_shown() -> Iterator[None]:
  """Shows within it what selftune logs, from warnings on."""
  logger, handler = logging.getLogger("selftune"), _OneLine(logging.WARNING)
  logger.addHandler(handler)
  logger.propagate = False  # some library may have given the root a handler of its own
  try:
    yield
  finally:
    logger.removeHandler(handler)
    logger.propagate = True

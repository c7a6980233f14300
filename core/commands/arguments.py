"""What the arguments of all commands have in common."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, Protocol

from ..api.errors import UserError

CONFIG_HELP = "a gin file, or the name of a packaged one, such as experiments/catch_stacx"
BIND_HELP = "override one parameter; repeat for more, the last one of a name counts"
TRUST_HELP = "import modules that lie in the workdir itself, where its config.gin names some"
BINDINGS_HELP = "the same, and counts more than --bind; right after CONFIG"

# What a command adds its parser to; argparse gives the type no public name.
Commands = argparse._SubParsersAction


class Command(Protocol):
  """A module with a command: its arguments and its handler."""

  def add(self, commands: Commands, /) -> None:
    """Adds its parser by `command`, which is also told what runs it."""


def parse(argv: Sequence[str], commands: Sequence[Command]) -> argparse.Namespace:
  """Parses the arguments of one of the commands: its name is `command`, and `run` runs it.

  Raises:
    UserError: says what is wrong with them.
  """
  # Not `parse_args`: it refuses unknown words itself, without the hint on quotes below.
  given, unknown = _parser(commands).parse_known_args(argv)
  if unknown:
    # A lone `=` is what a shell makes of a binding with blanks and without quotes.
    quote = " A binding is one argument: --bind 'train.seed = 1'." if "=" in unknown else ""
    raise UserError(
      f"unrecognized arguments: {' '.join(unknown)}.{quote} See 'selftune {given.command} --help'."
    )
  if "bindings" in given:
    for text in given.bindings:
      if "=" not in text:
        raise UserError(f"'{text}' is no NAME=VALUE. A folder for the run is --workdir {text}")
    # The last binding of a name counts; and handlers read `bind` alone.
    given.bind += given.bindings
  return given


class _Parser(argparse.ArgumentParser):
  """Says what is wrong in one line, like every other mistake."""

  def error(self, message: str) -> NoReturn:
    """Raises UserError, where argparse would print its usage and exit."""
    raise UserError(f"{message}. See '{self.prog} --help'.")


def _parser(commands: Sequence[Command]) -> argparse.ArgumentParser:
  parser = _Parser(
    prog="selftune",
    description="Trains reinforcement-learning agents that tune their own hyperparameters.",
    formatter_class=argparse.RawDescriptionHelpFormatter,
    epilog="""\
first steps:
  selftune train experiments/catch_stacx        about a minute on two cores
  selftune eval runs/catch_stacx_seed0          score what was trained
  selftune plot runs/catch_stacx_seed0          the return, and every number that tuned itself
  selftune plugins loss                         what losses there are, and what can be set of them

'selftune COMMAND --help' tells more of each.
Exit codes: 0 done, 1 the run failed, 2 a mistake in what was asked for, 130 interrupted (143 by
SIGTERM, 129 by SIGHUP).""",
  )
  # Parsers of commands get the class of `parser`, and so its one-line errors.
  subparsers = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")
  for each in commands:
    each.add(subparsers)
  return parser


def command(
  commands: Commands,
  run: Callable[[argparse.Namespace], int],
  name: str,
  help: str,
  examples: str,
) -> argparse.ArgumentParser:
  """Adds a command, and gives its parser for its arguments.

  Args:
    commands: of the command line.
    run: does what the command does, and returns its exit code.
    name: of the command.
    help: what it does, in a line of the list of commands.
    examples: the end of its own help.
  """
  parser: argparse.ArgumentParser = commands.add_parser(
    name,
    help=help,
    description=f"{help[0].upper()}{help[1:]}.",
    epilog=f"examples:\n{examples}",
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  # `cli` calls what it finds here, and so needs no table of handlers.
  parser.set_defaults(run=run)
  return parser


def add_config(parser: argparse.ArgumentParser) -> None:
  """Adds a configuration and bindings that override parts of it."""
  parser.add_argument("config", metavar="CONFIG", help=CONFIG_HELP)
  parser.add_argument("bindings", nargs="*", default=[], metavar="NAME=VALUE", help=BINDINGS_HELP)
  parser.add_argument(
    "--bind", action="append", default=[], metavar="'NAME.FIELD = VALUE'", help=BIND_HELP
  )


def path(text: str) -> Path:
  """Parses a file or folder; raises as `filled`."""
  return Path(filled(text))


def filled(text: str) -> str:
  """Returns a text that is not empty: an empty path would be taken for the current folder.

  Raises:
    ArgumentTypeError: it is empty, as a shell's unset variable is.
  """
  if not text:
    raise argparse.ArgumentTypeError("it is empty: write ./ for the current folder")
  return text


def steps(text: str) -> int:
  """Parses a number of steps; 1e6 is one, too.

  Raises:
    ArgumentTypeError: it is no number.
  """
  try:
    # int() does not read 1e6, the usual way to write env steps.
    return int(float(text))
  except (ValueError, OverflowError):
    raise argparse.ArgumentTypeError(f"'{text}' is no number of env steps, as 1e6 is") from None

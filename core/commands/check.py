"""`selftune check`: whether plugins do what their contracts ask, and metagradients are right."""

import argparse
import contextlib
import json
from collections.abc import Iterator
from typing import Any

from ..api.errors import RunError
from .arguments import BIND_HELP, BINDINGS_HELP, Commands, command
from .exits import OK


def add(commands: Commands) -> None:
  """Adds the command to the command line."""
  parser = command(
    commands,
    run,
    "check",
    "check plugins against their contracts, and metagradients against differences, as a table",
    """\
  selftune check experiments/catch_stacx        all that an experiment names, and its agent
  selftune check mine.gin --bind 'metagradient.inner_updates = 3'
  selftune check my_loss                        a plugin, in a small agent of its own
  selftune check my_loss.py                     every plugin that a file registers
  selftune check my_loss --bind 'my_loss.scale = 2.0' --json

Of each plugin: shapes and dtypes; finite numbers; that nothing is compiled at a second call; and,
in float64, its derivative against central differences, in forward and reverse mode. Environments
are played at random; networks are to clear their state where an episode starts. Of the agent: its
update, and the metagradient of each number that is tuned, through all that the configuration asks
for (K updates, an outer critic, a bootstrapped target, a context), against differences of the whole
cycle. Batches are made up and small: four transitions of four environments.

A row that cannot be made says why, and counts for nothing: a network in bfloat16, a writer that a
run can do without. The exit code is 1 where a row failed, with the first of them on stderr.""",
  )
  parser.add_argument(
    "target", metavar="TARGET", help="an experiment or gin file, a plugin's name, or a .py file"
  )
  parser.add_argument("bindings", nargs="*", default=[], metavar="NAME=VALUE", help=BINDINGS_HELP)
  parser.add_argument(
    "--bind", action="append", default=[], metavar="'NAME.FIELD = VALUE'", help=BIND_HELP
  )
  parser.add_argument("--json", action="store_true", help="one line of JSON in place of the table")


@contextlib.contextmanager
def _compiled_soon(config: Any) -> Iterator[None]:
  """Leaves out within it what makes compiled programs faster: each of them is run a few times."""
  before = config.read("jax_disable_most_optimizations")
  config.update("jax_disable_most_optimizations", True)
  try:
    yield
  finally:
    config.update("jax_disable_most_optimizations", before)


def run(arguments: argparse.Namespace) -> int:
  """Prints the table; raises RunError with the first row that failed."""
  import jax

  from ..checking import rows, table, target
  from ..machine import platform

  found = target.find(arguments.target, arguments.bind)
  # One device is enough: batches are small, and all that is checked is made on the first one.
  platform.prepare((0,))
  with _compiled_soon(jax.config):
    made = table.make(found.checks)
  if arguments.json:
    print(json.dumps(table.document(found.name, made)))
  else:
    print(table.text(made))
  # The error comes after the whole table: it is the exit code, and a line on stderr.
  said = table.summary(found.name, made)
  if rows.first_failure(made) is not None:
    raise RunError(said)
  if not arguments.json:
    print(said)
  return OK

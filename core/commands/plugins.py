"""`selftune plugins`: lists what an agent can be made of."""

import argparse
import json

from .arguments import Commands, command
from .exits import OK


def add(commands: Commands) -> None:
  """Adds the command to the command line."""
  parser = command(
    commands,
    run,
    "plugins",
    "list what an agent can be made of, and what of it can be self-tuned",
    """\
  selftune plugins                              each plugin, and what of it is tunable
  selftune plugins corrector                    those of a kind, with every setting
  selftune plugins part                         what else a configuration has: train, agent, ...
  selftune plugins --json""",
  )
  parser.add_argument("kind", nargs="?", metavar="KIND", help="env, network, corrector, loss, ...")
  parser.add_argument("--json", action="store_true", help="one line of JSON")


def run(arguments: argparse.Namespace) -> int:
  """Prints the plugins, as text or JSON."""
  from . import listing

  found = listing.find(arguments.kind)
  print(json.dumps(found) if arguments.json else listing.text(found))
  return OK

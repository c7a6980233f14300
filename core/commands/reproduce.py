"""`selftune reproduce`: trains and draws a figure of a paper."""

import argparse
from pathlib import Path

from .arguments import Commands, command, path
from .exits import FAILED, OK


def add(commands: Commands) -> None:
  """Adds the command to the command line."""
  parser = command(
    commands,
    run,
    "reproduce",
    "train the grid of a paper's figure and draw it, with its table and claims",
    """\
  selftune reproduce                            lists the figures, what each takes, on what
  selftune reproduce metatrace/fig2 --quick     minutes: a few settings, few episodes
  selftune reproduce metatrace/fig2

Stopped or killed, the same command goes on where it was. Figures share cells of their grids.""",
  )
  parser.add_argument(
    "figure",
    nargs="?",
    metavar="PAPER/FIGURE",
    help="such as metatrace/fig2 (default: list all, train none)",
  )
  parser.add_argument("--quick", action="store_true", help="a small form of the same")
  parser.add_argument(
    "--out",
    type=path,
    metavar="DIR",
    default=Path("runs", "reproduce"),
    help="default: runs/reproduce",
  )


def run(arguments: argparse.Namespace) -> int:
  """Makes the figure, or lists all where none is named; returns 1 where it was stopped."""
  from ..reproduce import listing, reproduce

  if arguments.figure is None:
    print(listing())
    return OK
  # Exit code 1 if stopped, unlike `train`: the figure that was asked for is not there.
  return OK if reproduce(arguments.figure, arguments.out, arguments.quick) else FAILED

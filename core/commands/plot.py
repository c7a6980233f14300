"""`selftune plot`: draws the curves of runs."""

import argparse
import os
from pathlib import Path

from ..api.errors import UserError
from .arguments import Commands, command, path
from .exits import OK


def add(commands: Commands) -> None:
  """Adds the command to the command line."""
  parser = command(
    commands,
    run,
    "plot",
    "draw the return and every self-tuned number against env steps",
    """\
  selftune plot runs/catch_stacx_seed0
  selftune plot runs/stacx_seed* runs/impala_seed* --out compare.png     seeds are averaged""",
  )
  parser.add_argument("workdirs", type=path, nargs="+", metavar="WORKDIR", help="of a run")
  parser.add_argument(
    "--out",
    type=path,
    metavar="FILE",
    help="the PNG (default: WORKDIR/curves.png for one run, ./curves.png for several)",
  )


def run(arguments: argparse.Namespace) -> int:
  """Draws the plot and prints where it is."""
  from ..record.plotting import plot

  alone = len(arguments.workdirs) == 1
  # The picture of several runs belongs in none of their workdirs.
  out = arguments.out or (arguments.workdirs[0] if alone else Path()) / "curves.png"
  # The plot is a PNG under any name, and another suffix would say something else.
  if out.suffix != ".png":
    instead = out.parent / f"{out.stem.strip('.') or 'curves'}.png"
    raise UserError(f"--out {out}: the plot is a PNG; write {instead}.")
  if arguments.out and not os.path.isdir(out.parent):
    raise UserError(f"cannot write the plot {out}: there is no folder {out.parent}; make it first.")
  print(plot(arguments.workdirs, out))
  return OK

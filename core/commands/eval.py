"""`selftune eval`: scores a checkpoint of a run, as one line of JSON."""

import argparse
import contextlib
import json
import sys

from ..api.ranges import MAX_STEPS
from .arguments import TRUST_HELP, Commands, command, filled, path
from .exits import OK


def add(commands: Commands) -> None:
  """Adds the command to the command line."""
  parser = command(
    commands,
    run,
    "eval",
    "play full episodes with a trained agent and print one line of JSON",
    """\
  selftune eval runs/catch_stacx_seed0
  selftune eval runs/catch_stacx_seed0 --episodes 1000 --greedy --seed 7
  selftune eval runs/catch_stacx_seed0@300              the checkpoint of update 300
  selftune eval runs/pong_stacx --episodes 1 --video pong.mp4

Environments have seeds that the run has not seen. Mean, std, min and max are of the raw return of
an episode; normalized is the mean by published scores, where there are any: in Atari 0 is random
play and 1 the human tester. An episode that has not ended after --max-steps is cut and counted as
such. Progress goes to stderr. A video shows the first episode of the first environment, of Atari,
DM Control, classic control and Catch; it needs pip install 'selftune[video]'.""",
  )
  parser.add_argument(
    "workdir",
    type=filled,
    metavar="WORKDIR[@STEP]",
    help="of a run, finished or not; or one of its checkpoints (default: the newest whole one)",
  )
  parser.add_argument("--episodes", type=int, default=100, metavar="N", help="default: 100")
  parser.add_argument(
    "--greedy", action="store_true", help="take the policy's mode (default: sample, as in training)"
  )
  parser.add_argument(
    "--seed", type=int, default=0, metavar="S", help="of environments and actions (default: 0)"
  )
  parser.add_argument(
    "--max-steps",
    type=int,
    default=MAX_STEPS,
    metavar="N",
    help=f"cut an episode that has not ended after so many (default: {MAX_STEPS})",
  )
  parser.add_argument("--video", type=path, metavar="FILE.mp4", help="record an episode")
  parser.add_argument("--trust", action="store_true", help=TRUST_HELP)


def run(arguments: argparse.Namespace) -> int:
  """Plays the episodes; only the result goes to stdout."""
  from ..evaluation.evaluate import evaluate
  from ..record.workdir import locate

  # `locate` gives the folder of checkpoints; its parent is the workdir.
  checkpoints, step = locate(arguments.workdir)
  it = arguments
  how = (it.episodes, it.greedy, it.seed, step, it.video, it.max_steps, it.trust)
  with contextlib.redirect_stdout(sys.stderr):  # environments' libraries greet whoever uses them
    result = evaluate(checkpoints.parent, *how)
  print(json.dumps(result))
  return OK

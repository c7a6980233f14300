"""`selftune report`: compares agents over tasks and seeds."""

import argparse
from pathlib import Path

from .arguments import TRUST_HELP, Commands, command, path, steps
from .exits import OK


def add(commands: Commands) -> None:
  """Adds the command to the command line."""
  parser = command(
    commands,
    run,
    "report",
    "compare agents over tasks and seeds, with intervals, as PNGs and one HTML page",
    """\
  selftune report runs/stacx_* runs/impala_*                 in ./report
  selftune report runs/* --out pong --at 1000000             as they were after a million env steps
  selftune report runs/* --evaluations                       scores of eval.jsonl

Runs are of one agent if their configurations differ in the seed and the environment alone; each
environment is a task, and every agent needs as many runs on each. Agents are named by what the
names of their workdirs have in common. Scores are normalised: by random policy and human in Atari,
by the greatest return in DM Control and Real-World RL; any other task must be alone, and is raw.
A score is the mean return of the last 100 episodes of training, or of those of an evaluation,
interpolated between two rows of the log.

Median, interquartile mean, mean and optimality gap, performance profiles, probability of
improvement and sample efficiency are rliable's: pip install 'selftune[report]'.""",
  )
  parser.add_argument("workdirs", type=path, nargs="+", metavar="WORKDIR", help="of a run")
  parser.add_argument(
    "--out", type=path, metavar="DIR", default=Path("report"), help="default: ./report"
  )
  parser.add_argument(
    "--at", type=steps, metavar="STEPS", help="env steps (default: train.total_env_steps)"
  )
  parser.add_argument(
    "--evaluations", action="store_true", help="scores of eval.jsonl (default: of training)"
  )
  parser.add_argument(
    "--resamples", type=int, default=2000, metavar="N", help="of the bootstrap (default: 2000)"
  )
  parser.add_argument("--trust", action="store_true", help=TRUST_HELP)


def run(arguments: argparse.Namespace) -> int:
  """Writes the report; prints its table and where its page is."""
  from ..reports.report import report

  it = arguments
  print(report(it.workdirs, it.out, it.at, it.evaluations, it.resamples, it.trust))
  print(it.out / "index.html")
  return OK

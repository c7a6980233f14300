"""`selftune study`: what tuning is worth to agents, over environments."""

import argparse
from pathlib import Path

from .arguments import Commands, command, filled, path
from .exits import FAILED, OK


def add(commands: Commands) -> None:
  """Adds the command to the command line."""
  parser = command(
    commands,
    run,
    "study",
    "train agents in environments with many settings and seeds; tell what tuning is worth to each",
    """\
  selftune study studies/mountain_car                   a minute and a half of CPU time
  selftune study my.yaml --workers 4                    four processes, where there is no program
  selftune study results.csv --out page                 the page alone, of anybody's results

A study file is YAML; bindings are gin, as of selftune train.
  environments:                       # a name, and the bindings that make it
    catch: [include 'envs/catch.gin']
    cartpole: [include 'envs/cartpole.gin']
  agents:
    impala: {config: experiments/catch_stacx, bind: [agent.heads = 1, metagradient.tune = ()]}
    stac: {config: experiments/catch_stacx, bind: [agent.heads = 1]}
  settings: {gamma: [0.9, 0.99], rmsprop.learning_rate: [1e-3, 3e-3]}    # all combinations
  seeds: 5
  bind: [train.total_env_steps = 50_000]          # of all
An agent's own settings take the place of these. A list [{gamma: 0.9}, ...] is of settings as they
are; 'draw: 20' draws so many, also from {min: 1e-4, max: 1e-2, log: true}.

The runs of an agent in an environment are one compiled program where they can be (train.runtime =
@runs(), and only numbers of plugins vary), else processes. Stopped or killed, the same command goes
on. The score is the mean return of the last tenth of training: 'score: {last: 0.1}'.

A CSV has a row for each run, and columns agent, environment, seed, score; if any: setting:NAME,
status (finished or diverged), auc, env_steps, wall_time, first:NAME and last:NAME of tuned numbers.

Exit code 1 if a run failed (the others run on), or if the study was stopped. Needs rliable:
pip install 'selftune[report]'.""",
  )
  parser.add_argument(
    "study", type=filled, metavar="STUDY", help="a YAML file, the name of a packaged one, or a CSV"
  )
  parser.add_argument(
    "--out", type=path, metavar="DIR", help="default: runs/studies/<name>; of a CSV, ./report"
  )
  parser.add_argument(
    "--workers", type=int, metavar="N", help="processes at a time (default: 1; with Ray, its CPUs)"
  )
  parser.add_argument(
    "--launcher",
    choices=("auto", "processes", "ray"),
    default="auto",
    help="auto: a program for each agent in an environment where that can be, else processes",
  )
  parser.add_argument(
    "--resamples", type=int, default=2000, metavar="N", help="of the bootstraps (default: 2000)"
  )


def run(arguments: argparse.Namespace) -> int:
  """Trains what is missing and writes the report; returns 1 where a run is missing at the end."""
  it = arguments
  # The results are there already: nothing is trained, only the page is drawn.
  if Path(it.study).suffix.lower() == ".csv":
    from ..reports.study_page import report_csv

    print(report_csv(Path(it.study), it.out or Path("report"), it.resamples))
    return OK
  from ..studies.file import read
  from ..studies.study import study

  whole = study(read(it.study), it.out, it.workers, it.launcher, it.resamples)
  return OK if whole else FAILED

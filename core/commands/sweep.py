"""`selftune sweep`: trains every point of a W&B sweep file, or the members of a population."""

import argparse
from collections.abc import Sequence

from ..api.errors import UserError
from . import train
from .arguments import Commands, command, parse, path
from .exits import FAILED, OK


def add(commands: Commands) -> None:
  """Adds the command to the command line."""
  parser = command(
    commands,
    run,
    "sweep",
    "train every point of a W&B sweep file here, without an account; table and plot at the end",
    """\
  selftune sweep sweeps/metatrace_mountain_car              24 points as one compiled program
  selftune sweep sweeps/catch_stac_discount --workers 2     two processes at a time
  selftune sweep my.yaml --launcher ray                     a Ray task a point
  selftune sweep sweeps/cartpole_population                 processes that take over from each other

The file is an ordinary W&B sweep: parameters are gin bindings, the command calls selftune train.
  method: grid                       # or random, bayes: these two also need run_cap: N
  metric: {name: episode_return, goal: maximize}
  parameters:
    entropy.cost: {values: [0.001, 0.01]}
    train.seed: {values: [0, 1, 2]}
    agent.metaopt: {value: '@fixed()'}            # as gin writes it: a string has quotes of its own
  command: [selftune, train, experiments/catch_stacx, '${args_no_hyphens}']
The same file works unchanged with 'wandb sweep my.yaml' and 'wandb agent ID' (needs an account).
${envvar:NAME} in the command is a variable of the environment.

A file with a population has members instead of points. They train to the next exchange and wait;
the worst then go on as copies of the best, with other settings (lineage.jsonl, curves.png).
  population:
    members: 4
    every_env_steps: 100_000                      # of each member, between exchanges
    exploit: '@truncation()'                      # who is replaced by whom
    explore: '@perturb()'                         # what copies try; or '@pb2()'
  parameters:
    rmsprop.learning_rate: {min: 1e-5, max: 1e-1}     # bounds, between which first values are drawn
    entropy.cost: {min: 1e-4, max: 1.0}
  command: [selftune, train, experiments/catch_stacx, '${args_no_hyphens}']

Stopped or killed, the same command goes on. Exit code 1 if a point failed (the others run on), or
if it was stopped.""",
  )
  parser.add_argument("sweep", metavar="SWEEP", help="a YAML file, or the name of a packaged one")
  parser.add_argument(
    "--out", type=path, metavar="DIR", help="default: runs/sweeps/<name of the file>"
  )
  parser.add_argument(
    "--workers",
    type=int,
    metavar="N",
    help="points, or members, at a time (default: 1; with Ray, as many as its machines hold)",
  )
  parser.add_argument(
    "--launcher",
    choices=("auto", "processes", "ray"),
    default="auto",
    help="auto: one program for all points where only numbers and seeds vary, else processes",
  )


def run(arguments: argparse.Namespace) -> int:
  """Trains what is missing of the sweep; returns 1 where a point is missing at the end."""
  from ..sweeps import file, population_file
  from ..sweeps.population import population
  from ..sweeps.sweep import sweep

  how = arguments.out, arguments.workers, arguments.launcher
  # Both readers are handed `experiment_of`: sweeps lie below the command line and cannot import it.
  # The first gives None where the file has no population.
  crowd = population_file.read(arguments.sweep, experiment_of)
  if crowd is not None:
    whole = population(crowd, *how)
  else:
    whole = sweep(file.read(arguments.sweep, experiment_of), *how)
  return OK if whole else FAILED


def experiment_of(words: Sequence[str]) -> tuple[str, list[str]]:
  """Parses `selftune train`, as a sweep file calls it, to the experiment and its bindings.

  Args:
    words: of the command, from `train` on.

  Raises:
    UserError: they are no such command, or set what each point has of its own.
  """
  given = parse(words, (train,))
  # An option that was not given is None, False or empty; 0 was given.
  absent = lambda value: value is None or value is False or value == []
  set_there = {name for name, value in vars(given).items() if not absent(value)}
  if others := set_there - {"command", "run", "config", "bind", "bindings"}:
    raise UserError(
      "selftune sweep takes an experiment and bindings of the command, and not "
      f"{', '.join(f'--{name}'.replace('_', '-') for name in sorted(others))}."
    )
  return given.config, given.bind

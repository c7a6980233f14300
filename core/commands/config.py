"""`selftune config`: checks a configuration and prints it with every default."""

import argparse

from .arguments import Commands, add_config, command
from .exits import OK


def add(commands: Commands) -> None:
  """Adds the command to the command line."""
  parser = command(
    commands,
    run,
    "config",
    "check a configuration and print it with every default, without training",
    """\
  selftune config experiments/catch_stacx
  selftune config experiments/catch_stacx --bind 'agent.heads = 1' > mine.gin""",
  )
  add_config(parser)


def run(arguments: argparse.Namespace) -> int:
  """Checks the configuration as training would, but for its first step; prints it whole."""
  from .. import config, experiment
  from .. import train as training
  from ..machine import platform

  # `train.train` begins with the same steps; `rehearse` stands for those that come next.
  loaded = config.load(arguments.config, arguments.bind)
  root: experiment.Train = loaded.root
  platform.prepare(root.learner_devices, root.runtime.actor_devices)
  training.check(root)
  training.rehearse(root)
  # The text ends with a newline and is valid gin: `> mine.gin` gives a file that loads back.
  print(loaded.operative, end="")
  return OK

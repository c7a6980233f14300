"""`selftune train`: trains an agent; alone, or as one process of a job of several."""

import argparse
import datetime
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from ..api.errors import UserError
from ..machine import process
from .arguments import Commands, add_config, command, filled, path
from .exits import OK, exit_code, printed

if TYPE_CHECKING:
  from ..engine.loop import Progress


def add(commands: Commands) -> None:
  """Adds the command to the command line."""
  parser = command(
    commands,
    run,
    "train",
    "train an agent",
    """\
  selftune train experiments/catch_stacx
  selftune train experiments/atari_stacx --bind "atari.game = 'space_invaders'"
  selftune train my.gin --bind 'train.seed = 1' --bind 'entropy.cost = 0.02' --workdir runs/try
  selftune train my.gin train.seed=1 entropy.cost=0.02  the same, as W&B's agents write it
  selftune train my.gin --workdir runs/try --resume     go on from its newest whole checkpoint
  selftune train my.gin --init-from runs/try@1200       begin with the weights of its update 1200
  selftune train my.gin --coordinator host0:1234 --num-processes 2 --process-id 1

Ctrl-C, SIGTERM and SIGHUP save, and end the run with exit code 0;
a second Ctrl-C ends it at once.""",
  )
  add_config(parser)
  parser.add_argument(
    "--workdir",
    type=path,
    metavar="DIR",
    help="where configs, logs, checkpoints and plots go (default: runs/<config>_seed<seed>; under "
    "a W&B agent, runs/<config>_<its run's id>)",
  )
  parser.add_argument(
    "--resume",
    action="store_true",
    help="go on with the run in the workdir; it may be given more train.total_env_steps",
  )
  parser.add_argument(
    "--init-from",
    type=filled,
    metavar="PATH[@STEP]",
    help="start with the weights of a checkpoint: of a workdir's newest, or of that update",
  )
  job = parser.add_argument_group("one process of a job of several (docs/operations.md)")
  job.add_argument(
    "--coordinator",
    metavar="HOST:PORT",
    help="where the first process listens; 'auto' asks SLURM, Open MPI or Kubernetes for all three",
  )
  job.add_argument("--num-processes", type=int, metavar="N", help="how many there are")
  job.add_argument("--process-id", type=int, metavar="I", help="which this is, from 0")


def run(arguments: argparse.Namespace) -> int:
  """Trains here, or, as one process of a job, in a child that this process outlives."""
  if arguments.coordinator is None:
    if (arguments.num_processes, arguments.process_id) != (None, None):
      raise UserError("--num-processes and --process-id need --coordinator HOST:PORT.")
    return _train(arguments)
  # XLA aborts a process that trains when another one of its job is lost. That process is therefore
  # a child of this one; it never returns from here, and so makes its exit code itself.
  from ..machine.supervise import supervised

  return supervised(lambda: printed(exit_code(lambda: _train(arguments))))


def _train(arguments: argparse.Namespace) -> int:
  from .. import config, experiment
  from .. import train as training
  from ..machine import hosts
  from ..record.workdir import default

  # It is loaded before the job is joined, so that a mistake need not wait for the others.
  root: experiment.Train = config.load(arguments.config, arguments.bind).root
  if arguments.coordinator is not None:
    hosts.join(arguments.coordinator, arguments.num_processes, arguments.process_id)
    process.end_on_signals()  # JAX has taken SIGTERM
  workdir = arguments.workdir or default(arguments.config, root.seed)
  progress = training.train(
    arguments.config, arguments.bind, workdir, arguments.resume, arguments.init_from
  )
  if hosts.is_first():
    print(_ended(progress, workdir) if progress.done else _stopped(progress, workdir, arguments))
  return OK


def _stopped(progress: "Progress", workdir: Path, arguments: argparse.Namespace) -> str:
  """Tells how far a run has come that a signal stopped, and the command that goes on with it."""
  again = ["selftune", "train", arguments.config, *(f"--bind={b}" for b in arguments.bind)]
  # Not so `init_from`: the workdir knows which checkpoint of it the weights were taken from.
  for name in ("coordinator", "num_processes", "process_id"):
    value = getattr(arguments, name)
    again += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]
  command = shlex.join([*again, "--workdir", str(workdir), "--resume"])
  return f"Stopped after {progress.env_steps:,} env steps. Resume with:\n  {command}"


def _ended(progress: "Progress", workdir: Path) -> str:
  """Tells what a run that is done has made, and what can be done with it."""
  took = datetime.timedelta(seconds=round(progress.wall_time))
  told = "No episode has finished yet: give it more train.total_env_steps."
  if windows := progress.episodes.windows.values():
    last, final = max(len(w.returns) for w in windows), progress.episodes.summary()
    of_each = f" of each of {len(windows)} runs" if len(windows) > 1 else ""
    told = f"Mean return of the last {last} episodes{of_each}: {final['episode_return']:.4g}"
  return (
    f"Trained {progress.env_steps:,} env steps in {took}.\n{told}\n"
    f"Everything is in {workdir}\n"
    f"  draw the curves: {shlex.join(['selftune', 'plot', str(workdir)])}\n"
    f"  score the agent: {shlex.join(['selftune', 'eval', str(workdir)])}"
  )

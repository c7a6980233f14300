"""The command line: what each command does.

Everything heavy is imported by the command that needs it, so that `--help` answers at once.
"""

import argparse
import contextlib
import datetime
import json
import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..api.errors import RunError, UserError
from .arguments import parse

OK, FAILED, USER_MISTAKE, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one command and returns its exit code: 0, 1 if the run failed, 2 for a user's mistake.

  Whatever else is raised is a bug and keeps its traceback.
  """
  with _warnings_shown():
    return _exit_code(lambda: _command(parse(argv)))


def _command(arguments: argparse.Namespace) -> int:
  return COMMANDS[arguments.command](arguments)


def _exit_code(run: Callable[[], int]) -> int:
  try:
    return run()
  except UserError as error:
    return _fail(str(error), USER_MISTAKE)
  except RunError as error:
    return _fail(str(error), FAILED)
  except KeyboardInterrupt:
    return _fail("interrupted.", INTERRUPTED)


def _train(arguments: argparse.Namespace) -> int:
  if arguments.coordinator is None:
    if (arguments.num_processes, arguments.process_id) != (None, None):
      raise UserError("--num-processes and --process-id need --coordinator HOST:PORT.")
    return _train_here(arguments)
  from ..machine.supervise import supervised

  return supervised(lambda: _exit_code(lambda: _train_here(arguments)))


def _train_here(arguments: argparse.Namespace) -> int:
  from .. import config, experiment
  from .. import train as training
  from ..machine import hosts

  root: experiment.Train = config.load(arguments.config, arguments.bind).root
  if arguments.coordinator is not None:
    hosts.join(arguments.coordinator, arguments.num_processes, arguments.process_id)
  name = Path(arguments.config).name.removesuffix(".gin")
  by_agent = "WANDB_SWEEP_ID" in os.environ and os.environ.get("WANDB_RUN_ID")
  workdir = arguments.workdir or Path("runs", f"{name}_{by_agent or f'seed{root.seed}'}")
  progress = training.train(
    arguments.config, arguments.bind, workdir, arguments.resume, arguments.init_from
  )
  if not hosts.is_first():
    return OK
  if not progress.done:
    again = ["selftune", "train", arguments.config, *(f"--bind={b}" for b in arguments.bind)]
    for name in ("init_from", "coordinator", "num_processes", "process_id"):
      value = getattr(arguments, name)
      again += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]
    command = shlex.join([*again, "--workdir", str(workdir), "--resume"])
    print(f"Stopped after {progress.env_steps:,} env steps. Resume with:\n  {command}")
    return OK
  took = datetime.timedelta(seconds=round(progress.wall_time))
  print(f"Trained {progress.env_steps:,} env steps in {took}.")
  if windows := progress.episodes.windows.values():
    last, final = max(len(w.returns) for w in windows), progress.episodes.summary()
    of_each = f" of each of {len(windows)} runs" if len(windows) > 1 else ""
    print(f"Mean return of the last {last} episodes{of_each}: {final['episode_return']:.4g}")
  else:
    print("No episode has finished yet: give it more train.total_env_steps.")
  print(
    f"Everything is in {workdir}\n"
    f"  draw the curves: {shlex.join(['selftune', 'plot', str(workdir)])}\n"
    f"  score the agent: {shlex.join(['selftune', 'eval', str(workdir)])}"
  )
  return OK


def _eval(arguments: argparse.Namespace) -> int:
  from ..evaluation.evaluate import evaluate
  from ..record.workdir import locate

  checkpoints, step = locate(arguments.workdir)
  it = arguments
  result = evaluate(checkpoints.parent, it.episodes, it.greedy, it.seed, step, it.video)
  print(json.dumps(result))
  return OK


def _plot(arguments: argparse.Namespace) -> int:
  from ..record.plotting import plot

  alone = len(arguments.workdirs) == 1
  out = arguments.out or (arguments.workdirs[0] if alone else Path()) / "curves.png"
  if out.suffix != ".png":
    raise UserError(f"--out {out}: the plot is a PNG; write {out.with_suffix('.png')}.")
  print(plot(arguments.workdirs, out))
  return OK


def _report(arguments: argparse.Namespace) -> int:
  from ..reports.report import report

  it = arguments
  print(report(it.workdirs, it.out, it.at, it.evaluations, it.resamples))
  print(it.out / "index.html")
  return OK


def _sweep(arguments: argparse.Namespace) -> int:
  from ..sweeps.sweep import sweep

  whole = sweep(arguments.sweep, arguments.out, arguments.workers, arguments.launcher)
  return OK if whole else FAILED


def _reproduce(arguments: argparse.Namespace) -> int:
  from ..reproduce import listing, reproduce

  if arguments.figure is None:
    print(listing())
    return OK
  return OK if reproduce(arguments.figure, arguments.out, arguments.quick) else FAILED


def _plugins(arguments: argparse.Namespace) -> int:
  from . import listing

  found = listing.find(arguments.kind)
  print(json.dumps(found, ensure_ascii=False) if arguments.json else listing.text(found))
  return OK


def _config(arguments: argparse.Namespace) -> int:
  from .. import config
  from .. import train as training

  loaded = config.load(arguments.config, arguments.bind)
  training.check(loaded.root)
  print(loaded.operative, end="")
  return OK


class _OneLine(logging.Handler):
  """Shows a log record as one line on stderr, whatever stderr is by then."""

  def emit(self, record: logging.LogRecord) -> None:
    _say(record.getMessage().replace("\n", " "))


@contextlib.contextmanager
def _warnings_shown() -> Iterator[None]:
  """Within it, what selftune logs is shown."""
  logger, handler = logging.getLogger("selftune"), _OneLine(logging.WARNING)
  logger.addHandler(handler)
  logger.propagate = False  # some library may have given the root a handler of its own
  try:
    yield
  finally:
    logger.removeHandler(handler)
    logger.propagate = True


def _say(message: str) -> None:
  print(f"selftune: {message}", file=sys.stderr)


def _fail(message: str, code: int) -> int:
  _say(message)
  return code


COMMANDS = {
  "train": _train,
  "eval": _eval,
  "plot": _plot,
  "report": _report,
  "sweep": _sweep,
  "reproduce": _reproduce,
  "plugins": _plugins,
  "config": _config,
}

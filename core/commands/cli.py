"""The command line: what each command does.

Everything heavy is imported by the command that needs it, so that `--help` answers at once.
"""

import argparse
import contextlib
import datetime
import errno
import io
import json
import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..api.errors import RunError, UserError
from ..machine import process, variables
from .arguments import parse

OK, FAILED, USER_MISTAKE, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one command and returns its exit code: 0, 1 if the run failed, 2 for a user's mistake.

  Whatever else is raised is a bug and keeps its traceback.

  Args:
    argv: its arguments; None for those of this process, which is then the command's alone, with its
      signals and standard streams.
  """
  if argv is not None:
    return _main(argv)
  process.begin()
  try:
    return _printed(_main(sys.argv[1:]))
  except SystemExit as helped:
    if helped.code:
      raise
    return _printed(OK)


def _main(argv: Sequence[str]) -> int:
  if isinstance(sys.stdout, io.TextIOWrapper):  # what its encoding lacks, as on stderr
    sys.stdout.reconfigure(errors="backslashreplace")
  with _warnings_shown():
    return _exit_code(lambda: _command(parse(argv)))


def _printed(code: int) -> int:
  """The exit code, unless what the command has printed is lost."""
  lost = process.output_failure()
  return code if lost is None else _fail(f"cannot write to the standard output: {lost}.", FAILED)


def _command(arguments: argparse.Namespace) -> int:
  variables.try_imports()
  try:
    return COMMANDS[arguments.command](arguments)
  except SystemExit as error:  # of a plugin: it would end the run as if nothing had happened
    raise RunError(f"the run was ended by code that it calls: sys.exit({error.code!r}).") from error


def _exit_code(run: Callable[[], int]) -> int:
  try:
    return run()
  except UserError as error:
    return _fail(str(error), USER_MISTAKE)
  except RunError as error:
    return _fail(str(error), FAILED)
  except OSError as error:  # of a file that nobody expected to be bad
    if error.filename is None:
      raise
    code = USER_MISTAKE if error.errno == errno.ENAMETOOLONG else FAILED
    return _fail(f"{error.filename}: {error.strerror}.", code)
  except KeyboardInterrupt:
    return _fail("interrupted.", INTERRUPTED)


def _train(arguments: argparse.Namespace) -> int:
  if arguments.coordinator is None:
    if (arguments.num_processes, arguments.process_id) != (None, None):
      raise UserError("--num-processes and --process-id need --coordinator HOST:PORT.")
    return _train_here(arguments)
  from ..machine.supervise import supervised

  return supervised(lambda: _printed(_exit_code(lambda: _train_here(arguments))))


def _train_here(arguments: argparse.Namespace) -> int:
  from .. import config, experiment
  from .. import train as training
  from ..machine import hosts
  from ..record.workdir import default

  root: experiment.Train = config.load(arguments.config, arguments.bind).root
  if arguments.coordinator is not None:
    hosts.join(arguments.coordinator, arguments.num_processes, arguments.process_id)
    process.end_on_signals()  # JAX has taken SIGTERM
  workdir = arguments.workdir or default(arguments.config, root.seed)
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
  how = (it.episodes, it.greedy, it.seed, step, it.video, it.max_steps, it.trust)
  with contextlib.redirect_stdout(sys.stderr):  # environments' libraries greet whoever uses them
    result = evaluate(checkpoints.parent, *how)
  print(json.dumps(result))
  return OK


def _plot(arguments: argparse.Namespace) -> int:
  from ..record.plotting import plot

  alone = len(arguments.workdirs) == 1
  out = arguments.out or (arguments.workdirs[0] if alone else Path()) / "curves.png"
  if out.suffix != ".png":
    instead = out.parent / f"{out.stem.strip('.') or 'curves'}.png"
    raise UserError(f"--out {out}: the plot is a PNG; write {instead}.")
  if arguments.out and not os.path.isdir(out.parent):
    raise UserError(f"cannot write the plot {out}: there is no folder {out.parent}; make it first.")
  print(plot(arguments.workdirs, out))
  return OK


def _report(arguments: argparse.Namespace) -> int:
  from ..reports.report import report

  it = arguments
  print(report(it.workdirs, it.out, it.at, it.evaluations, it.resamples, it.trust))
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
  print(json.dumps(found) if arguments.json else listing.text(found))
  return OK


def _config(arguments: argparse.Namespace) -> int:
  from .. import config, experiment
  from .. import train as training
  from ..machine import platform

  loaded = config.load(arguments.config, arguments.bind)
  root: experiment.Train = loaded.root
  platform.prepare(root.learner_devices, root.runtime.actor_devices)
  training.check(root)
  training.rehearse(root)
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

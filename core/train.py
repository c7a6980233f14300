"""Training, from a configuration to a trained agent; reads top to bottom."""

import contextlib
import dataclasses
import functools
import math
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from . import config
from .api import files
from .api.contracts import RunInfo
from .api.errors import UserError
from .api.registry import name_of
from .api.types import LearnerState
from .engine import environments, single
from .engine.loop import Progress, Training, run
from .evaluation import of_runs
from .evaluation.periodic import evaluated
from .evaluation.scored import Scored
from .evaluation.video import drawable
from .experiment import Train
from .machine import hosts, platform, shortage
from .machine.seeding import evaluation_seeds
from .record import plotting
from .record.checkpoint import Checkpointer
from .record.logging import Logger
from .record.segment import Segment
from .record.workdir import Workdir, locate
from .runs import independent


def train(
  name: str,
  bindings: Sequence[str],
  path: Path,
  resume: bool = False,
  init_from: str | None = None,
  segment: Segment | None = None,
) -> Progress:
  """Trains the agent that a configuration describes; as one process of a job, if it was joined.

  Args:
    name: a gin file or the name of a packaged one.
    bindings: further gin bindings.
    path: the workdir: configs, logs, checkpoints and the final plot go there.
    resume: go on with the run in the workdir, from its newest whole checkpoint.
    init_from: the first weights are those of a checkpoint, PATH[@STEP] (see workdir.locate).
    segment: the part of the run that is trained now, where it is a member of a population.

  Returns:
    How far it came.

  Raises:
    UserError: a mistake in any of these; nothing was created then.
    NonFiniteError: a loss or gradient was not finite; the state before that update is saved.
    RunError: the disk is full, memory does not suffice, or another process of the job was lost;
      likewise.
  """
  # Whatever can be refused without the workdir is refused before it is touched.
  loaded = config.load(name, bindings)
  experiment: Train = loaded.root
  platform.prepare(experiment.learner_devices, experiment.runtime.actor_devices)
  check(experiment)
  workdir = Workdir(path)

  # The stack unwinds in reverse: the log is closed, then the last checkpoint is on the disk, and
  # only then the signals are restored and the lock of the workdir is given up.
  with contextlib.ExitStack() as stack:
    # These two are outermost: they explain whatever fails below, the last save too.
    stack.enter_context(shortage.explained(_how(experiment).smaller(experiment)))
    stack.enter_context(hosts.losses_explained())
    still_alone = stack.enter_context(workdir.alone())
    workdir.check(loaded, resume, segment.varied if segment else ())
    # Processes tell each other numbers of 32 bits, so the text is compared by its sum.
    text = zlib.crc32(loaded.text.encode())
    hosts.check_same({"configuration": text, "workdir": workdir.restarts(), "--resume": resume})
    # `create` below adds this start to `restarts`, whose count seeds the environments made here.
    training = prepare(experiment, workdir)
    # A resumed run needs it too: a checkpoint is restored into its structure, shapes and devices.
    state = training.init()

    checkpoints = Checkpointer(
      workdir.checkpoints, experiment.checkpoints_to_keep, experiment.keep_every
    )
    restored = checkpoints.restore(state) if resume else None
    if resume and init_from is None:
      init_from = workdir.init_from()  # for a run that was killed before its first checkpoint
    progress, weights = Progress(), None
    if restored is not None:
      state, progress = restored.state, Progress.from_json(restored.host)
      # Where the first update failed nothing was learned: it still has the weights it began with.
      weights = None if progress.env_steps else init_from
    elif init_from is not None:
      state, weights = with_weights(state, init_from)
    # A copy is made only once: its checkpoints hold `exchange`, and a killed copy resumes them.
    if segment is not None and segment.parent and progress.exchange < segment.exchange:
      weights = segment.parent
      state, progress = as_copy(state, progress, segment.parent, segment.exchange)
    # A shared disk may show processes different listings, and so different newest checkpoints.
    hosts.check_same({"checkpoints": progress.updates})
    # The setting is of each run, but a program of many runs counts the steps of all together.
    total_env_steps = training.size * experiment.total_env_steps
    until = segment.until if segment else math.inf
    if training.done(state, progress):
      # The progress of a checkpoint never says that a run is done, see `loop.save`.
      progress = dataclasses.replace(progress, done=True)
      # Where the last scores are owed it goes on as any run, but `run` finds no update to make.
      if not hosts.first_says(_unscored(experiment, workdir, progress)):
        if hosts.is_first():
          _say_done(workdir, progress, total_env_steps)
        return progress
    # The segment was trained before, by a process that was killed before it could say so.
    elif progress.env_steps >= until:
      return progress
    # From here on there is something to save.
    asked_to_stop = stack.enter_context(platform.stop_signals())

    def stopping() -> bool:
      # Training asks after every update: so this is where it learns that it has lost the lock.
      still_alone()
      return asked_to_stop()

    if hosts.is_first():
      anew = restored is None and not progress.env_steps
      workdir.create(loaded, training.env_seeds, progress.env_steps, weights, anew)
      workdir.say_resumed(resume, restored)

    stack.callback(checkpoints.close)
    info = RunInfo(
      str(path),
      loaded.flat,
      total_env_steps,
      progress.env_steps,
      progress.writer_ids,
    )
    # The other processes of a job have a log without writers, for it is also the clock of the run.
    writers = {name_of(writer): writer for writer in experiment.writers if hosts.is_first()}
    logger = stack.enter_context(Logger(writers, info, progress.wall_time))
    progress = run(experiment, training, logger, checkpoints, state, progress, stopping, until)
    # Only a signal ends the last evaluation without an error; the others of a job do not make it.
    if hosts.is_first() and progress.done and _unscored(experiment, workdir, progress):
      progress = dataclasses.replace(progress, done=False, unscored=True)
    if writers and progress.done and (path / "metrics.jsonl").is_file():
      # The curves are drawn from the file, which is to hold the last row.
      logger.flush()
      logger.log_media("curves", plotting.plot([path], workdir.curves))
  return progress


def _unscored(experiment: Train, workdir: Workdir, progress: Progress) -> bool:
  """Says whether a run that has been trained to its end is still to be scored."""
  return experiment.evaluation is not None and Scored(workdir.path).owed(progress.env_steps)


def _say_done(workdir: Workdir, progress: Progress, total_env_steps: int) -> None:
  """Tells that there is nothing to do, and draws the curves if a kill came before them."""
  print(
    f"selftune: {workdir.path} has made {progress.env_steps:,} of {total_env_steps:,} env steps "
    "already; to go on, give it more train.total_env_steps.",
    file=sys.stderr,
  )
  if not workdir.curves.exists():
    # Without rows, as without a writer of them, there is nothing to draw.
    with contextlib.suppress(UserError):
      plotting.plot([workdir.path], workdir.curves)


def check(experiment: Train) -> None:
  """Refuses what can be told without an environment, for one process and so for a job of several.

  It asks JAX how many processes and devices there are, and so starts it: `platform.prepare` comes
  before.

  Raises:
    UserError: says what does not fit.
    RunError: a batch alone is more than the memory of the machine.
  """
  _how(experiment).check(experiment, experiment.runtime)
  if (evaluation := experiment.evaluation) is not None:
    needed = evaluation.num_envs * shortage.ENVIRONMENT
    shortage.check(needed, f"evaluation.num_envs = {evaluation.num_envs}")
    if evaluation.video:
      drawable(experiment.env, "evaluation.video = True")


def rehearse(experiment: Train) -> None:
  """Traces what can be traced though no environment is made.

  Raises:
    UserError: the network does not go with the environment, or the meta-optimiser with the batch.
  """
  _how(experiment).rehearse(experiment, experiment.runtime)


def prepare(experiment: Train, workdir: Workdir) -> Training:
  """Makes what the loop trains, ready to begin.

  Raises:
    UserError: the agent cannot act in the environment, or a plugin gives what it must not.
  """
  if experiment.evaluation is not None and experiment.evaluation.video:
    drawn = drawable(experiment.env, "evaluation.video = True")
    # Drawn from the run's seed, which may have 32 bits: pools take 31.
    seeds = evaluation_seeds(experiment.seed, 1, ())
    with contextlib.closing(environments.make_drawn(drawn, seeds)) as pool:
      pool.reset()
      # What is wrong with drawing shows at the first picture: here, before there are files.
      pool.draw()
  if experiment.runs is not None:
    table = workdir.path / "runs.csv"
    scores = functools.partial(of_runs.Scores, experiment, workdir)
    beside = scores if experiment.evaluation else None
    return independent.ManyRuns(experiment, experiment.runs, workdir.restarts(), table, beside)
  beside = functools.partial(evaluated, experiment, workdir)
  runtime: Any = experiment.runtime  # lockstep or sebulba: `@runs()` has returned above
  return single.SingleRun(experiment, runtime, workdir.restarts(), beside)


def _how(experiment: Train) -> ModuleType:
  """Returns the module that knows the runtime: one run, or many as one program."""
  return single if experiment.runs is None else independent


def finish(name: str, bindings: Sequence[str], path: Path) -> bool:
  """Starts a run, goes on with it, or leaves it alone if it has ended before; raises as `train`.

  Returns:
    Whether it has ended, and not been stopped by a signal; its workdir is then marked as done.
  """
  workdir = Workdir(path)
  if not workdir.done.exists():
    # A kill between the last update and `done` does no harm: the next start finds nothing to train,
    # and makes up for the last scores.
    if not train(name, bindings, path, resume=workdir.holds_run()).done:
      return False
    files.write(workdir.done, "")
  return True


def as_copy(
  state: LearnerState, progress: Progress, parent: str, exchange: int
) -> tuple[LearnerState, Progress]:
  """Makes a run go on as a copy of another one; its key and its episodes stay its own.

  Args:
    state: of the run that becomes the copy.
    progress: of the same run.
    parent: the checkpoint of the other run, PATH@STEP.
    exchange: number of the exchange in which the run becomes the copy.

  Returns:
    The state and the progress from which it goes on.

  Raises:
    UserError: there is no such checkpoint, or it is damaged or of another agent.
  """
  directory, step = locate(parent)
  restored = Checkpointer(directory).restore(state, step)
  if restored is None:
    raise UserError(f"the parent's checkpoint {parent} is gone.")
  learned, of_parent = restored.state, Progress.from_json(restored.host)
  # The counts are the parent's, as its learner made these updates: phases of the meta-optimiser and
  # names of checkpoints go by them.
  counts = {"updates": of_parent.updates, "env_steps": of_parent.env_steps}
  print(f"selftune: goes on as a copy of {parent}.", file=sys.stderr)
  # With the parent's key it would draw the same numbers as the parent.
  return learned._replace(key=state.key), dataclasses.replace(progress, exchange=exchange, **counts)


def with_weights(state: Any, checkpoint: str) -> tuple[Any, str]:
  """Returns the state with the weights of a checkpoint and nothing else of it; and which that is.

  Args:
    state: a LearnerState, whose parameters have the shapes [...] of the checkpoint's.
    checkpoint: PATH[@STEP].

  Raises:
    UserError: there is none, or its weights are of another network.
  """
  if not isinstance(state, LearnerState):
    raise UserError("--init-from is for one agent; the runs of @runs() begin anew.")
  directory, step = locate(checkpoint)
  # Only the parameters are read: optimiser, meta state and counts stay those of a new run.
  try:
    restored = Checkpointer(directory).restore(state, step, only="params")
  except UserError as error:
    # Named, as a run that is resumed has it from its first start and not from the command.
    raise UserError(f"--init-from {checkpoint}: {error}") from error
  if restored is None:
    raise UserError(f"--init-from {checkpoint}: there is no checkpoint in {directory}.")
  if hosts.is_first():
    said = f"weights of update {restored.step} of {directory}. {restored.note}"
    print(f"selftune: {said}".rstrip(), file=sys.stderr)
  return restored.state, f"{directory.absolute()}/{restored.step}"

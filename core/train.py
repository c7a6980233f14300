"""Training, from a configuration to a trained agent; reads top to bottom."""

import contextlib
import dataclasses
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from . import config
from .agent.functions import Functions
from .api import checks, files
from .api.contracts import Environment, FunctionalEnvironment, RunInfo
from .api.errors import UserError
from .api.registry import name_of
from .api.types import Device, LearnerState
from .engine import environments
from .engine.actor import Actor
from .engine.learner import Learner, micro_batches_of
from .engine.loop import Progress, run
from .engine.sources import start
from .evaluation.periodic import evaluated
from .evaluation.video import drawable
from .experiment import IndependentRuns, Lockstep, Sebulba, Train
from .machine import hosts, platform, shortage
from .machine.seeding import env_seeds
from .record import plotting
from .record.checkpoint import Checkpointer
from .record.logging import Logger
from .record.workdir import Workdir, locate
from .runs import independent


def train(
  name: str,
  bindings: Sequence[str],
  path: Path,
  resume: bool = False,
  init_from: str | None = None,
) -> Progress:
  """Trains the agent that a configuration describes; as one process of a job, if it was joined.

  Args:
    name: a gin file or the name of a packaged one.
    bindings: further gin bindings.
    path: the workdir: configs, logs, checkpoints and the final plot go there.
    resume: go on with the run in the workdir, from its newest whole checkpoint.
    init_from: the first weights are those of a checkpoint, PATH[@STEP] (see workdir.locate).

  Returns:
    How far it came.

  Raises:
    UserError: a mistake in any of these; nothing was created then.
    NonFiniteError: a loss or gradient was not finite; the state before that update is saved.
    RunError: the disk is full, memory does not suffice, or another process of the job was lost;
      likewise.
  """
  loaded = config.load(name, bindings)
  experiment: Train = loaded.root
  platform.prepare(experiment.learner_devices, experiment.runtime.actor_devices)
  check(experiment)
  workdir = Workdir(path)

  with contextlib.ExitStack() as stack:
    stack.enter_context(shortage.explained(_smaller(experiment)))
    stack.enter_context(hosts.losses_explained())
    still_alone = stack.enter_context(workdir.alone())
    workdir.check(loaded, resume)
    text = zlib.crc32(loaded.text.encode())
    hosts.check_same({"configuration": text, "workdir": workdir.restarts(), "--resume": resume})
    if isinstance(experiment.runtime, IndependentRuns):
      training = prepare_runs(experiment, experiment.runtime, workdir)
    else:
      training = prepare_on_host(experiment, experiment.runtime, workdir)
    state, seeds = training.state, training.env_seeds

    checkpoints = Checkpointer(
      workdir.checkpoints, experiment.checkpoints_to_keep, experiment.keep_every
    )
    restored = checkpoints.restore(state) if resume else None
    progress, weights = Progress(), None
    if restored is not None:
      state, progress = restored.state, Progress.from_json(restored.host)
    elif init_from is not None:
      state, weights = with_weights(state, init_from)
    hosts.check_same({"checkpoints": progress.updates})
    total_env_steps = training.runs * experiment.total_env_steps
    if training.ended(progress):
      if hosts.is_first():
        print(
          f"selftune: {path} has made {progress.env_steps:,} of {total_env_steps:,} env steps "
          "already; to go on, give it more train.total_env_steps.",
          file=sys.stderr,
        )
      return dataclasses.replace(progress, done=True)
    # From here on there is something to save.
    asked_to_stop = stack.enter_context(platform.stop_signals())

    def stopping() -> bool:
      still_alone()
      return asked_to_stop()

    if hosts.is_first():
      workdir.create(loaded, seeds, progress.env_steps, weights)
      workdir.say_resumed(resume, restored)

    stack.callback(checkpoints.close)
    info = RunInfo(
      str(path),
      loaded.flat,
      total_env_steps,
      progress.env_steps,
      progress.writer_ids,
    )
    writers = {name_of(writer): writer for writer in experiment.writers if hosts.is_first()}
    logger = stack.enter_context(Logger(writers, info, progress.wall_time))
    progress = training.loop(logger, checkpoints, state, progress, stopping)
    if writers and progress.done and (path / "metrics.jsonl").is_file():
      logger.flush()
      logger.log_media("curves", plotting.plot([path], workdir.curves))
  return progress


def check(experiment: Train) -> None:
  """Refuses what can be told without an environment, for one process and so for a job of several.

  It asks JAX how many processes and devices there are, and so starts it: `platform.prepare` comes
  before.

  Raises:
    UserError: says what does not fit.
    RunError: a batch alone is more than the memory of the machine.
  """
  b, t = experiment.num_envs, experiment.unroll_length
  batch, what = b * t * shortage.TRANSITION, f"train.num_envs = {b} x train.unroll_length = {t}"
  if isinstance(experiment.runtime, IndependentRuns):
    size = experiment.runtime.size
    shortage.check(size * batch, f"{what} x {size:,} runs")
    ends = size * b * t * experiment.runtime.iterations * shortage.END
    shortage.check(ends, f"runs.iterations = {experiment.runtime.iterations} of {size:,} runs")
    independent.refuse(experiment, experiment.runtime)
    platform.devices(experiment.learner_devices, "train.learner_devices")
    return
  shortage.check((batch + b * shortage.ENVIRONMENT) // hosts.count(), what)
  pool_seeds(experiment, 0)
  platform.devices(experiment.runtime.actor_devices, "actor_devices")
  devices = platform.learner_devices(experiment.learner_devices, experiment.num_envs)
  micro_batches_of(experiment.num_envs, len(devices), _micro_batch(experiment, devices))
  if (evaluation := experiment.evaluation) is not None:
    needed = evaluation.num_envs * shortage.ENVIRONMENT
    shortage.check(needed, f"evaluation.num_envs = {evaluation.num_envs}")
    if evaluation.video:
      drawable(experiment.env, "evaluation.video = True")


def rehearse(experiment: Train) -> None:
  """Traces the first state of runs whose environment is functional: there is none to be made.

  Raises:
    UserError: the network does not go with the environment, or the meta-optimiser with the batch.
  """
  runtime, env = experiment.runtime, experiment.env
  if isinstance(runtime, IndependentRuns) and isinstance(env, FunctionalEnvironment):
    devices = platform.devices(experiment.learner_devices, "train.learner_devices")
    jax.eval_shape(independent.make_runs(experiment, runtime, devices).init)


def finish(name: str, bindings: Sequence[str], path: Path) -> bool:
  """Starts a run, goes on with it, or leaves it alone if it has ended before; raises as `train`.

  Returns:
    Whether it has ended, and not been stopped by a signal; its workdir is then marked as done.
  """
  workdir = Workdir(path)
  if not workdir.done.exists():
    if not train(name, bindings, path, resume=workdir.holds_run()).done:
      return False
    files.write(workdir.done, "")
  return True


def with_weights(state: Any, checkpoint: str) -> tuple[Any, str]:
  """The state with the weights of a checkpoint, PATH[@STEP], and nothing else of it; and which.

  Raises:
    UserError: there is none, or its weights are of another network.
  """
  if not isinstance(state, LearnerState):
    raise UserError("--init-from is for one agent; the runs of @runs() begin anew.")
  directory, step = locate(checkpoint)
  restored = Checkpointer(directory).restore(state, step, only="params")
  if restored is None:
    raise UserError(f"--init-from {checkpoint}: there is no checkpoint in {directory}.")
  if hosts.is_first():
    print(f"selftune: weights of update {restored.step}. {restored.note}", file=sys.stderr)
  return restored.state, f"{directory.absolute()}/{restored.step}"


class Prepared(NamedTuple):
  """Training, ready to begin."""

  state: Any  # the first one
  env_seeds: list[list[tuple[int, ...]]]  # of the pools, by actor
  runs: int  # independent ones
  ended: Callable[[Progress], bool]  # whether there is nothing left to do
  loop: Callable[[Logger, Checkpointer, Any, Progress, Callable[[], bool]], Progress]
  # state, progress, whether to stop -> progress


def prepare_on_host(experiment: Train, runtime: Lockstep | Sebulba, workdir: Workdir) -> Prepared:
  """Environments in pools, actors that step them, and a learner."""
  if experiment.evaluation is not None and experiment.evaluation.video:
    drawn = drawable(experiment.env, "evaluation.video = True")
    environments.make_drawn(drawn, (experiment.seed,)).close()  # or it says why not
  seeds = pool_seeds(experiment, workdir.restarts())
  first = hosts.index() * runtime.actors
  mine = seeds[first : first + runtime.actors]
  made = [[environments.make(experiment.env, s) for s in actor_seeds] for actor_seeds in mine]
  agent = Functions(experiment.agent, made[0][0].spec, experiment.total_updates)
  learner = make_learner(experiment, agent)
  actors = make_actors(experiment, agent, made, first)
  state = learner.init(jax.random.key(experiment.seed), actors[0].timestep)
  learner.trace(state)

  def loop(logger, checkpoints, state, progress, stopping):
    source = start(runtime, actors, progress.updates, hosts.alone(stopping))
    beside = (experiment, agent, actors[0].device, workdir, progress.env_steps, logger, stopping)
    with contextlib.closing(source), evaluated(source, *beside) as source:
      return run(experiment, learner, source, logger, checkpoints, state, progress, stopping)

  ended = lambda progress: progress.updates >= experiment.total_updates
  return Prepared(state, seeds, 1, ended, loop)


def prepare_runs(experiment: Train, runtime: IndependentRuns, workdir: Workdir) -> Prepared:
  """Independent runs as one program."""
  devices = platform.devices(experiment.learner_devices, "train.learner_devices")
  runs = independent.make_runs(experiment, runtime, devices, workdir.restarts())
  table = workdir.path / "runs.csv"

  def loop(logger, checkpoints, state, progress, stopping):
    with contextlib.closing(runs):
      return independent.run(
        experiment,
        runtime,
        runs,
        table,
        logger,
        checkpoints,
        runs.resume(state),
        progress,
        stopping,
      )

  size = runs.members.size
  ended = lambda progress: progress.env_steps >= size * experiment.total_env_steps
  states = runs.init()
  runs.trace(states, runtime.iterations)
  return Prepared(runs.saved(states), [[runs.env_seeds]], size, ended, loop)


def pool_seeds(experiment: Train, restart: int) -> list[list[tuple[int, ...]]]:
  """Seeds of every environment of the job, by actor and pool; the first process's actors first.

  Raises:
    UserError: the environments cannot be shared out evenly.
  """
  assert not isinstance(experiment.runtime, IndependentRuns)  # that has no pools
  processes, groups = hosts.count(), experiment.runtime.groups
  actors = processes * experiment.runtime.actors
  each, rest = divmod(experiment.num_envs, actors * groups)
  if rest or not each:
    raise UserError(
      f"train.num_envs = {experiment.num_envs} is not divisible by processes x actors x groups = "
      f"{processes} x {actors // processes} x {groups} environment pools; choose a multiple of "
      f"{actors * groups}."
    )
  return [
    [env_seeds(experiment.seed, restart, a * groups + g, each) for g in range(groups)]
    for a in range(actors)
  ]


def make_actors(
  experiment: Train, agent: Functions, pools: Sequence[Sequence[Environment]], first: int = 0
) -> list[Actor]:
  """One actor for each row of pools, on the actor devices in turn; numbered from `first`."""
  devices = platform.devices(experiment.runtime.actor_devices, "actor_devices")
  key = jax.random.fold_in(jax.random.key(experiment.seed), 1)
  return [
    Actor(
      agent,
      actor_pools,
      devices[i % len(devices)],
      jax.random.fold_in(key, first + i),
      experiment.unroll_length,
      experiment.overlap,
      experiment.stagger,
    )
    for i, actor_pools in enumerate(pools)
  ]


def make_learner(experiment: Train, agent: Functions) -> Learner:
  """The learner, on the learner devices."""
  devices = platform.learner_devices(experiment.learner_devices, experiment.num_envs)
  return Learner(
    agent,
    devices,
    experiment.num_envs,
    experiment.unroll_length,
    _micro_batch(experiment, devices),
    checks.who(experiment.env),
  )


def _micro_batch(experiment: Train, devices: Sequence[Device]) -> int | None:
  on_cpu = devices[0].platform == "cpu"
  return experiment.micro_batch or (experiment.cpu_micro_batch if on_cpu else None)


def _smaller(experiment: Train) -> str:
  """What to do where memory does not suffice."""
  if isinstance(experiment.runtime, IndependentRuns):
    return "Halve runs.chunk, runs.iterations, train.num_envs or train.unroll_length."
  now = experiment.micro_batch or experiment.cpu_micro_batch or "None, all of a device's share"
  return (
    f"Halve train.micro_batch (it is {now}): the same update in smaller parts; if that does not "
    "do, train.num_envs, train.unroll_length or the network."
  )

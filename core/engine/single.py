"""One run: actors feed a learner, in turn or from threads of their own."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from ..agent.functions import Functions
from ..api import checks
from ..api.contracts import Environment
from ..api.errors import UserError
from ..api.types import Device, LearnerState, Metrics
from ..experiment import Lockstep, Sebulba, Train
from ..machine import hosts, platform, shortage
from ..machine.seeding import env_seeds
from ..record.logging import Logger
from . import environments
from .actor import Actor
from .batches import micro_batches_of
from .learner import Learner
from .loop import Moved, Progress
from .sources import Source, start

Beside = Callable[["SingleRun", Source, Progress, Logger, Callable[[], bool]], Any]
# what goes on beside training, as a context manager that gives the source to train from


def nothing(run: "SingleRun", source: Source, *_: Any) -> contextlib.nullcontext[Source]:
  """Gives the source as it is, where nothing goes on beside training."""
  del run
  return contextlib.nullcontext(source)


class SingleRun:
  """A run whose environments are pools on the host; satisfies `loop.Training`."""

  size = 1

  def __init__(
    self,
    experiment: Train,
    runtime: Lockstep | Sebulba,
    restart: int = 0,
    beside: Beside = nothing,
  ):
    """Makes the environments, resets them, and traces the update.

    Args:
      experiment: what is trained.
      runtime: its runtime.
      restart: how many starts of the training came before this one; environments get new seeds at
        each.
      beside: see `Beside`.

    Raises:
      UserError: the agent cannot act in the environment, or a plugin gives what it must not.
    """
    self._experiment, self._runtime, self._beside = experiment, runtime, beside
    self.env_seeds = pool_seeds(experiment, runtime, restart)
    # Seeds of the whole job, as `restarts.jsonl` records them; this process takes its share.
    first = hosts.index() * runtime.actors
    mine = self.env_seeds[first : first + runtime.actors]
    pools = [[environments.make(experiment.env, s) for s in actor_seeds] for actor_seeds in mine]
    self.fns = Functions(experiment.agent, pools[0][0].spec, experiment.total_updates)
    self.actors = make_actors(experiment, runtime, self.fns, pools, first)
    # An environment ends at most one episode a step.
    self.most_episodes = experiment.num_envs // hosts.count() * experiment.unroll_length
    self.learner = make_learner(experiment, self.fns)
    self._previous: Metrics = {}

  def init(self) -> LearnerState:
    """Returns the first state; what a plugin refuses in the update is known once there is one."""
    key = jax.random.key(self._experiment.seed)
    state = self.learner.init(key, self.actors[0].timestep)
    self.learner.trace(state)
    return state

  @contextlib.contextmanager
  def begun(
    self, saved: LearnerState, progress: Progress, logger: Logger, stopping: Callable[[], bool]
  ) -> Iterator[LearnerState]:
    """Starts to act, with the parameters of `saved`, which is also where to `advance` from."""
    # In a job of several processes none stops by itself: `hosts.tell` tells them all.
    source = start(self._runtime, self.actors, progress.updates, hosts.alone(stopping))
    with contextlib.closing(source), self._beside(self, source, progress, logger, stopping) as it:
      self._source: Source = it
      # Before the first batch is asked for: whoever acts needs parameters.
      self._publish(progress.updates, saved)
      yield saved

  def advance(self, state: LearnerState, progress: Progress) -> tuple[LearnerState, Moved]:
    """Makes one update on a batch [T+1, B]; metrics are [], on the device."""
    rollout, waited = self._source.get(progress.updates)
    batch = self.learner.put(rollout.trajectory)
    # From a count that checkpoints hold: a resumed run goes on in the same phase.
    phase = progress.updates % self.learner.phases
    state, metrics = self.learner.update(state, batch, phase)
    # Before anything is waited for: actors get arrays that are still being computed.
    self._publish(progress.updates + 1, state)
    # At most two updates are under way. XLA lets a CPU device have 32 computations under way, and
    # two devices whose shares of an update wait for each other behind those would wait forever.
    jax.block_until_ready(self._previous)
    self._previous = metrics
    # Every process steps as many environments as this one.
    env_steps = progress.env_steps + rollout.env_steps * hosts.count()
    waits = (waited, rollout.env_wait, rollout.act_time)
    return state, Moved(progress.updates + 1, env_steps, rollout.episodes, metrics, *waits)

  def done(self, state: LearnerState, progress: Progress) -> bool:
    """Says whether all updates have been made."""
    del state
    return progress.updates >= self._experiment.total_updates

  def check(self, metrics: Metrics) -> None:
    """Raises NonFiniteError if an update was not finite; metrics are [], of the latest one."""
    self.learner.check(metrics)

  def row(self, state: LearnerState, metrics: Metrics, progress: Progress) -> dict[str, Any]:
    """Returns metrics [] and what the meta-optimiser logs of the state, all on the host."""
    del progress
    row = jax.device_get(metrics)
    del row["failure"]  # there was none
    return row | jax.device_get(self.learner.describe(state))

  def saved(self, state: LearnerState) -> LearnerState:
    """Returns the state, which is all that a checkpoint holds of it."""
    return state

  def _publish(self, version: int, state: LearnerState) -> None:
    self._source.publish(version, self.learner.actor_params(state, self._source.devices))


def check(experiment: Train, runtime: Lockstep | Sebulba) -> None:
  """Refuses what can be told without an environment, for one process and so for a job of several.

  Raises:
    UserError: says what does not fit.
    RunError: a batch alone is more than the memory of the machine.
  """
  b, t = experiment.num_envs, experiment.unroll_length
  what = f"train.num_envs = {b} x train.unroll_length = {t}"
  needed = b * (t * shortage.TRANSITION + shortage.ENVIRONMENT)
  shortage.check(needed // hosts.count(), what)
  # The rest is called only for what it refuses.
  pool_seeds(experiment, runtime, 0)
  platform.devices(runtime.actor_devices, "actor_devices")
  devices = platform.learner_devices(experiment.learner_devices, experiment.num_envs)
  micro_batches_of(experiment.num_envs, len(devices), micro_batch(experiment, devices))


def rehearse(experiment: Train, runtime: Lockstep | Sebulba) -> None:
  """Does nothing: what a single run traces needs the spec of a pool, and so an environment."""


def smaller(experiment: Train) -> str:
  """Says what to do where memory does not suffice."""
  now = experiment.micro_batch or experiment.cpu_micro_batch or "None, all of a device's share"
  return (
    f"Halve train.micro_batch (it is {now}): the same update in smaller parts; if that does not "
    "do, train.num_envs, train.unroll_length or the network."
  )


def pool_seeds(
  experiment: Train, runtime: Lockstep | Sebulba, restart: int
) -> list[list[tuple[int, ...]]]:
  """Draws the seeds of all environments of the job, by actor and pool; the first process's first.

  Raises:
    UserError: the environments cannot be shared out evenly.
  """
  processes, groups = hosts.count(), runtime.groups
  actors = processes * runtime.actors
  each, rest = divmod(experiment.num_envs, actors * groups)
  if rest or not each:
    raise UserError(
      f"train.num_envs = {experiment.num_envs} is not divisible by processes x actors x groups = "
      f"{processes} x {actors // processes} x {groups} environment pools; choose a multiple of "
      f"{actors * groups}."
    )
  # Pools are numbered through the job: seeds do not depend on which process has them.
  return [
    [env_seeds(experiment.seed, restart, a * groups + g, each) for g in range(groups)]
    for a in range(actors)
  ]


def make_actors(
  experiment: Train,
  runtime: Lockstep | Sebulba,
  fns: Functions,
  pools: Sequence[Sequence[Environment]],
  first: int = 0,
) -> list[Actor]:
  """Makes an actor for each row of pools, on the actor devices in turn; numbered from `first`."""
  devices = platform.devices(runtime.actor_devices, "actor_devices")
  # Apart from what the learner draws with, which is `split(key)` and `fold_in(key, 2)`.
  key = jax.random.fold_in(jax.random.key(experiment.seed), 1)
  # Numbered through the job: actors of many processes draw as those of one would.
  return [
    Actor(
      fns,
      actor_pools,
      devices[i % len(devices)],
      jax.random.fold_in(key, first + i),
      experiment.unroll_length,
      experiment.overlap,
      experiment.stagger,
    )
    for i, actor_pools in enumerate(pools)
  ]


def make_learner(experiment: Train, fns: Functions) -> Learner:
  """Makes the learner, on the learner devices."""
  devices = platform.learner_devices(experiment.learner_devices, experiment.num_envs)
  return Learner(
    fns,
    devices,
    experiment.num_envs,
    experiment.unroll_length,
    micro_batch(experiment, devices),
    checks.who(experiment.env),
  )


def micro_batch(experiment: Train, devices: Sequence[Device]) -> int | None:
  """Returns how many trajectories a learner device takes at a time; None: its whole share."""
  on_cpu = devices[0].platform == "cpu"
  return experiment.micro_batch or (experiment.cpu_micro_batch if on_cpu else None)

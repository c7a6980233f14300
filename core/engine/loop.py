"""The training loop: get, update, publish; now and then log and save."""

import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from ..api.errors import NonFiniteError, RunError
from ..api.types import Episode, LearnerState, Metrics
from ..machine import hosts
from ..record.checkpoint import Checkpointer
from ..record.episodes import EpisodeStats
from ..record.logging import Logger
from .actor import Interrupted
from .learner import Learner
from .sources import Source

if TYPE_CHECKING:
  from ..experiment import Train


@dataclasses.dataclass(frozen=True)
class Progress:
  """What a checkpoint holds beside the learner's state."""

  updates: int = 0
  env_steps: int = 0  # of single environments, reset steps included
  episodes: EpisodeStats = dataclasses.field(default_factory=EpisodeStats)
  wall_time: float = 0.0  # seconds, over all starts
  done: bool = False  # trained to the end
  writer_ids: dict[str, str] = dataclasses.field(default_factory=dict)

  def to_json(self) -> dict[str, Any]:
    # A copy of the ids: a writer may open, in its thread, while this is encoded.
    ids = dict(self.writer_ids)
    return {**vars(self), "episodes": self.episodes.to_json(), "writer_ids": ids}

  @classmethod
  def from_json(cls, saved: dict[str, Any]) -> "Progress":
    return cls(**{**saved, "episodes": EpisodeStats.from_json(saved["episodes"])})


def run(
  experiment: "Train",
  learner: Learner,
  source: Source,
  logger: Logger,
  checkpoints: Checkpointer,
  state: LearnerState,
  progress: Progress,
  stopping: Callable[[], bool],
) -> Progress:
  """Trains until the end, or until `stopping()`; saves in either case.

  Raises:
    NonFiniteError: names the term, and the checkpoint of the state before that update.
  """
  devices = source.devices
  clock = Clock(experiment.log_seconds, experiment.checkpoint_seconds)
  at_once = experiment.num_envs // hosts.count() * experiment.unroll_length  # episodes may finish
  asked = hosts.Asked(stop=False, log=False, save=False)
  source.publish(progress.updates, learner.actor_params(state, devices))
  metrics: Metrics = {}
  good = progress  # as it was after the last update that is known to be finite

  def check(metrics: Metrics) -> None:
    """Saves the last good state if the learner stays at it, as an update was not finite."""
    try:
      learner.check(metrics)
    except NonFiniteError as error:
      raise save_good(error, checkpoints, state, good, logger) from None

  while progress.updates < experiment.total_updates and not asked.stop:
    try:
      rollout, waited = source.get(progress.updates)
    except Interrupted:
      break
    batch = learner.put(rollout.trajectory)
    asked = hosts.Asked(stopping(), clock.time_to_log(), clock.time_to_save())
    asked, ended = hosts.tell(asked, rollout.episodes, at_once)
    previous = metrics
    state, metrics = learner.update(state, batch)
    source.publish(progress.updates + 1, learner.actor_params(state, devices))
    # At most two updates are under way. XLA lets a CPU device have 32 computations under way, and
    # two devices whose shares of an update wait for each other behind those would wait forever.
    jax.block_until_ready(previous)
    if previous:
      check(previous)
    good = progress
    new_steps = rollout.env_steps * hosts.count()
    env_steps = progress.env_steps + new_steps
    finished = [Episode(env_steps, *episode) for episode in ended]
    logger.log_episodes(finished)
    progress = dataclasses.replace(
      progress,
      updates=progress.updates + 1,
      env_steps=env_steps,
      episodes=progress.episodes.add(finished),
    )
    clock.add(new_steps, waited, rollout.env_wait, rollout.act_time)
    if asked.log or progress.updates == experiment.total_updates:
      row = jax.device_get(metrics)
      check(row)
      del row["failure"]  # there was none
      row |= jax.device_get(learner.describe(state))
      logger.log(row | progress.episodes.summary() | clock.row(), env_steps)
    if asked.save:
      check(metrics)
      save(checkpoints, state, progress, logger)
  if metrics:
    check(metrics)
    save(checkpoints, state, progress, logger)
  done = progress.updates >= experiment.total_updates
  return dataclasses.replace(progress, done=done, wall_time=logger.wall_time)


def save(
  checkpoints: Checkpointer, state: LearnerState, progress: Progress, logger: Logger
) -> None:
  """Saves a state that is known to be finite."""
  progress = dataclasses.replace(progress, wall_time=logger.wall_time)
  checkpoints.save(progress.updates, state, progress.to_json())


def save_good(
  error: NonFiniteError,
  checkpoints: Checkpointer,
  state: LearnerState,
  good: Progress,
  logger: Logger,
) -> NonFiniteError:
  """Saves the state before an update that was not finite, and that learning can go on from it.

  Args:
    error: names the term.
    checkpoints: of the run.
    state: that the learner stayed at.
    good: the progress of that state.
    logger: knows the time.

  Returns:
    The error with what became of the state.
  """
  state = state._replace(failure=jnp.full_like(state.failure, -1))
  try:
    save(checkpoints, state, good, logger)
    checkpoints.wait()
  except RunError as unsaved:
    return NonFiniteError(f"{error} It is not saved: {unsaved}")
  return NonFiniteError(
    f"{error} It is saved: --resume goes on from the checkpoint of update {good.updates}."
  )


class Clock:
  """When to log and to save, and where the time went since the last row."""

  def __init__(self, log_seconds: float, checkpoint_seconds: float):
    self._log_seconds, self._checkpoint_seconds = log_seconds, checkpoint_seconds
    self._logged = self._saved = time.monotonic()
    self._reset()

  def _reset(self) -> None:
    self._updates = self._steps = 0
    self._queue_wait = self._env_wait = self._act_time = 0.0

  def add(self, steps: int, queue_wait: float, env_wait: float, act_time: float) -> None:
    """Counts one update."""
    self._updates += 1
    self._steps += steps
    self._queue_wait += queue_wait
    self._env_wait += env_wait
    self._act_time += act_time

  def time_to_log(self) -> bool:
    return time.monotonic() - self._logged >= self._log_seconds

  def time_to_save(self) -> bool:
    now = time.monotonic()
    due = now - self._saved >= self._checkpoint_seconds
    self._saved = now if due else self._saved
    return due

  def row(self) -> dict[str, float]:
    """Speed since the last row, and seconds an update spent waiting; starts a new row."""
    now = time.monotonic()
    row = {
      "steps_per_second": self._steps / max(now - self._logged, 1e-9),
      "queue_wait": self._queue_wait / self._updates,
      "env_wait": self._env_wait / self._updates,
      "act_time": self._act_time / self._updates,
    }
    self._logged = now
    self._reset()
    return row

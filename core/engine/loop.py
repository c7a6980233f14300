"""The training loop: advance; now and then log and save. The same for one run and for many."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp

from ..api.errors import NonFiniteError
from ..api.types import Episode, LearnerState, Metrics, PyTree
from ..experiment import Train
from ..machine import hosts
from ..record.checkpoint import Checkpointer
from ..record.episodes import EpisodeStats
from ..record.logging import Logger
from .actor import Interrupted


@dataclasses.dataclass(frozen=True)
class Progress:
  """What a checkpoint holds beside the learner's state."""

  updates: int = 0
  env_steps: int = 0  # of single environments, reset steps included
  episodes: EpisodeStats = dataclasses.field(default_factory=EpisodeStats)
  wall_time: float = 0.0  # seconds, over all starts
  done: bool = False  # trained to the end
  unscored: bool = False  # so it was, but is not `done`: a signal came before the last scores
  exchange: int = 0  # of a member of a population: the last in which it became a copy
  writer_ids: dict[str, str] = dataclasses.field(default_factory=dict)
  population: Any = None  # of runs that take over from each other: how they stand, as JSON has it

  def to_json(self) -> dict[str, Any]:
    """Returns what a checkpoint's document holds of the progress."""
    # A copy of the ids: a writer may open, in its thread, while this is encoded.
    ids = dict(self.writer_ids)
    return {**vars(self), "episodes": self.episodes.to_json(), "writer_ids": ids}

  @classmethod
  def from_json(cls, saved: dict[str, Any]) -> "Progress":
    """Returns the progress that `to_json` has made a document of."""
    return cls(**{**saved, "episodes": EpisodeStats.from_json(saved["episodes"])})


class Moved(NamedTuple):
  """What training did between two looks of the host."""

  updates: int  # made in all, by the run that made most
  env_steps: int  # made in all, by all runs and processes
  episodes: Sequence[tuple]  # that ended here: return, length and, of many runs, the run's number
  metrics: Metrics  # of the last update, on the device
  queue_wait: float = 0.0  # seconds an update that the learner waited for a batch
  env_wait: float = 0.0  # seconds an update that was waited for environments
  act_time: float = 0.0  # seconds an update in the network that acts
  population: Any = None  # as in Progress


class Training(Protocol):
  """What the loop trains: one run that actors feed, or many runs as one program.

  Its state is a LearnerState of the one, or a RunState [R', ...] of the many; checkpoints hold
  [R, ...], without the copies that fill the devices.
  """

  size: int  # how many runs
  env_seeds: list[list[tuple[int, ...]]]  # of the environments on the host, by actor and pool
  most_episodes: int  # that can end in one process between two looks

  def init(self) -> PyTree:
    """Returns the first state, as checkpoints hold it."""
    ...

  def begun(
    self, saved: PyTree, progress: Progress, logger: Logger, stopping: Callable[[], bool]
  ) -> contextlib.AbstractContextManager[PyTree]:
    """Gives the state to `advance` from, within a context that closes what it opened.

    Args:
      saved: the state as checkpoints hold it; of many runs [R, ...].
      progress: so far.
      logger: the log of the run, or of all runs together.
      stopping: says that training is to stop.
    """
    ...

  def advance(self, state: PyTree, progress: Progress) -> tuple[PyTree, Moved]:
    """Acts and learns; `state` is donated.

    Returns:
      The new state, and what was done; its metrics are [], or [R'] of many runs.

    Raises:
      Interrupted: training is to stop.
    """
    ...

  def done(self, state: PyTree, progress: Progress) -> bool:
    """Says whether there is nothing left to do."""
    ...

  def check(self, metrics: Metrics) -> None:
    """Looks at the metrics of an update, [] or [R'] each.

    Raises:
      NonFiniteError: it, or one before it, was not finite, and the state stays at the one before.
    """
    ...

  def row(self, state: PyTree, metrics: Metrics, progress: Progress) -> dict[str, Any]:
    """Returns what there is to log, host scalars and histograms by name.

    Args:
      state: after the update.
      metrics: of the update, [] or [R'] each.
      progress: so far.
    """
    ...

  def saved(self, state: PyTree) -> PyTree:
    """Returns what a checkpoint holds of a state, and writes the files that go beside one.

    Of many runs, [R', ...], these are the R that were asked for, [R, ...].
    """
    ...


def run(
  experiment: Train,
  training: Training,
  logger: Logger,
  checkpoints: Checkpointer,
  saved: PyTree,
  progress: Progress,
  stopping: Callable[[], bool],
  until: float = math.inf,
) -> Progress:
  """Trains until the end, until `stopping()` or so many env steps; saves in any case.

  Args:
    experiment: says how often to log and to save.
    training: what is trained.
    logger: gets a row now and then, and every finished episode.
    checkpoints: where states go.
    saved: the state to begin with, as checkpoints hold it; of many runs [R, ...].
    progress: so far.
    stopping: says that training is to end.
    until: env steps, in all, at which it stops.

  Returns:
    How far it came.

  Raises:
    NonFiniteError: names the term, and the checkpoint of the state before that update.
  """
  clock = Clock(experiment.log_seconds, experiment.checkpoint_seconds)
  asked = hosts.Asked(stop=False, log=False, save=False)
  metrics: Metrics = {}
  good = progress  # as it was after the last update that is known to be finite
  with training.begun(saved, progress, logger, stopping) as state:

    def check(metrics: Metrics) -> None:
      """Saves the last good state if the learner stays at it, as an update was not finite."""
      try:
        training.check(metrics)
      except NonFiniteError as error:
        raise save_good(error, checkpoints, training.saved(state), good, logger) from None

    while not progress.done and not asked.stop and progress.env_steps < until:
      previous = metrics
      try:
        state, moved = training.advance(state, progress)
      except Interrupted:
        # Raised before the state is donated: it is whole, and is saved below.
        break
      metrics = moved.metrics
      # A signal or a clock of one process becomes a request of all: they make the same updates.
      asked = hosts.Asked(stopping(), clock.time_to_log(), clock.time_to_save())
      asked, ended = hosts.tell(asked, moved.episodes, training.most_episodes)
      if previous:
        # The update before is asked: this one is still computed, and asking it would wait for that.
        check(previous)
      # All before this update is finite: if this one is not, the learner stays at what this counts.
      good = progress
      finished = [Episode(moved.env_steps, *episode) for episode in ended]
      logger.log_episodes(finished)
      waits = (moved.queue_wait, moved.env_wait, moved.act_time)
      clock.add(moved.env_steps - progress.env_steps, *waits)
      progress = dataclasses.replace(
        progress,
        updates=moved.updates,
        env_steps=moved.env_steps,
        episodes=progress.episodes.add(finished),
        population=moved.population,
      )
      # In two steps: `done` asks for the updates that have just been counted.
      progress = dataclasses.replace(progress, done=training.done(state, progress))
      # Here the host waits for the update: a number that is not finite ends the run, and is no row.
      if asked.log or progress.done or progress.env_steps >= until:
        check(metrics)
        row = training.row(state, metrics, progress)
        logger.log(row | progress.episodes.summary() | clock.row(), progress.env_steps)
      if asked.save:
        check(metrics)
        save(checkpoints, training.saved(state), progress, logger)
    # Trained to the end, stopped or interrupted; without metrics there is nothing new to save.
    if metrics:
      check(metrics)
      save(checkpoints, training.saved(state), progress, logger)
  return dataclasses.replace(progress, wall_time=logger.wall_time)


def save(checkpoints: Checkpointer, saved: PyTree, progress: Progress, logger: Logger) -> None:
  """Saves a state that is known to be finite, as checkpoints hold it; of many runs [R, ...].

  Raises:
    RunError: it, or what was logged before it, cannot be written.
    Exception: whatever else a required log writer failed with.
  """
  # A run that goes on from here does not write again what was logged before.
  logger.flush()
  # Never as done: a run that goes on from here may have been given more env steps.
  progress = dataclasses.replace(progress, wall_time=logger.wall_time)
  checkpoints.save(progress.updates, saved, {**progress.to_json(), "done": False})


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
    state: that the learner stayed at; its `failure`, [], is cleared.
    good: the progress of that state.
    logger: knows the time.

  Returns:
    The error with what became of the state.
  """
  # Else every update from here on would be dropped, as after a failure.
  state = state._replace(failure=jnp.full_like(state.failure, -1))
  try:
    save(checkpoints, state, good, logger)
    # Waited for, so that the message says what is on the disk.
    checkpoints.wait()
  except Exception as unsaved:  # a log writer of others may raise anything
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
    """Counts one `advance`: its env steps, and seconds an update that it waited and acted."""
    self._updates += 1
    self._steps += steps
    self._queue_wait += queue_wait
    self._env_wait += env_wait
    self._act_time += act_time

  def time_to_log(self) -> bool:
    """Says whether `log_seconds` have passed since the last row."""
    return time.monotonic() - self._logged >= self._log_seconds

  def time_to_save(self) -> bool:
    """Says whether `checkpoint_seconds` have passed since it last said so."""
    now = time.monotonic()
    due = now - self._saved >= self._checkpoint_seconds
    self._saved = now if due else self._saved
    return due

  def row(self) -> dict[str, float]:
    """Returns env steps a second since the last row, and seconds an update; starts a new row."""
    # `add` comes before a row, so there is at least one update to divide by.
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

"""Where trajectories come from while the learner learns: in turn, or from actor threads.

Both give the same numbers at lag 0. The parameters that act in trajectory k are always exactly
those of update k - lag, so a run is deterministic at any lag.
"""

import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import jax
import numpy as np

from ..api.types import BATCH_AXES, ActorParams, Device, Trajectory
from ..experiment import Lockstep, Sebulba
from .actor import Actor, Interrupted, Rollout

POLL = 0.1  # seconds between looks at the stop event
JOIN = 3.0  # seconds that threads are given to end

Published = Mapping[Device, ActorParams]  # a copy for every device that acts

_LOG = logging.getLogger(__name__)


class Source(Protocol):
  """Gives the learner its batches."""

  @property
  def devices(self) -> set[Device]:
    """The devices that act: each wants a copy of the parameters."""
    ...

  def get(self, index: int) -> tuple[Rollout, float]:
    """Returns batch `index`, [T+1, B], and the seconds waited for it.

    Raises:
      Interrupted: the run was asked to stop.
      BaseException: whatever an actor or its environments failed with.
    """
    ...

  def publish(self, version: int, params: Published) -> None:
    """Hands over the parameters that have `version` updates behind them."""
    ...

  def close(self) -> None:
    """Ends what acts, and closes its pools."""
    ...


class LockstepSource:
  """Acts when asked for a batch."""

  def __init__(self, actor: Actor, stopping: Callable[[], bool]):
    self._actor, self._stopping = actor, stopping
    self.devices = {actor.device}

  def publish(self, version: int, params: Published) -> None:
    """Takes the parameters that the next batch is acted with."""
    self._version, self._params = version, params

  def get(self, index: int) -> tuple[Rollout, float]:
    """Acts for batch `index`, [T+1, B]; the seconds are all that this took."""
    start = time.perf_counter()
    params = self._params[self._actor.device]
    rollout = self._actor.unroll(params, self._version, index, self._stopping)
    return rollout, time.perf_counter() - start

  def close(self) -> None:
    """Closes the actor's pools."""
    self._actor.close()


def start(
  runtime: Lockstep | Sebulba, actors: Sequence[Actor], first: int, stopping: Callable[[], bool]
) -> Source:
  """Starts to act, from batch `first` on.

  Args:
    runtime: in turn with the learner, or in threads.
    actors: one for `Lockstep`; one or more for `Sebulba`.
    first: number of the first batch, which is that of the updates made so far.
    stopping: says that the run is to end.
  """
  match runtime:
    case Lockstep():
      return LockstepSource(actors[0], stopping)
    case Sebulba():
      return SebulbaSource(actors, first, runtime.lag, stopping)


class SebulbaSource:
  """Actor threads, a queue from each, and the parameters they wait for.

  The first exception of any thread stops all of them and is raised by the next `get`.
  """

  def __init__(self, actors: Sequence[Actor], first: int, lag: int, stopping: Callable[[], bool]):
    self._actors, self._first, self._lag, self._stopping = actors, first, lag, stopping
    self.devices = {actor.device for actor in actors}
    # For the threads alone: set by `close`, or by the first of them that fails.
    self._stop = threading.Event()
    self._failures: list[BaseException] = []
    self._published = threading.Condition()
    self._params: dict[int, Published] = {}  # the last lag + 1 versions
    # An actor is never ahead of the learner by more than this: it then waits for parameters.
    self._queues = [queue.Queue[Rollout](maxsize=lag + 1) for _ in actors]
    # Daemons: an environment that hangs must not keep the process from ending.
    self._threads = [
      threading.Thread(target=self._run, args=pair, name=f"actor-{i}", daemon=True)
      for i, pair in enumerate(zip(actors, self._queues, strict=True))
    ]
    for thread in self._threads:
      thread.start()

  def publish(self, version: int, params: Published) -> None:
    """Wakes the actors that wait for this version."""
    with self._published:
      self._params[version] = params
      # Batch `version - 1` has come from every actor, so none asks for one this old again.
      self._params.pop(version - self._lag - 1, None)
      self._published.notify_all()

  def get(self, index: int) -> tuple[Rollout, float]:
    """Takes batch `index` from every actor, [T+1, B] of all, and the seconds waited for them."""
    start = time.perf_counter()
    # A queue holds its actor's batches in order, none left out: the next one is that of `index`.
    rollouts = [self._take(q) for q in self._queues]
    waited = time.perf_counter() - start
    return concatenate(rollouts), waited

  def close(self) -> None:
    """Ends the threads and closes their pools; one whose environment hangs is left behind."""
    self._stop.set()
    # One deadline for all: many threads that hang cost no more time than one.
    deadline = time.monotonic() + JOIN
    for thread in self._threads:
      thread.join(max(0.0, deadline - time.monotonic()))
    for actor, thread in zip(self._actors, self._threads, strict=True):
      if thread.is_alive():  # a pool must not be closed under a thread that steps it
        _LOG.warning("%s did not end within %.0f s: does its environment hang?", thread.name, JOIN)
      else:
        actor.close()

  def _take(self, q: "queue.Queue[Rollout]") -> Rollout:
    while True:
      # Looked at again and again: a thread that has failed puts nothing more into its queue.
      if self._failures:
        raise self._failures[0]
      if self._stopping():
        raise Interrupted
      try:
        return q.get(timeout=POLL)
      except queue.Empty:
        continue

  def _run(self, actor: Actor, q: "queue.Queue[Rollout]") -> None:
    try:
      for index in itertools.count(self._first):
        # Versions before the first are gone: the first lag + 1 batches are acted by that one.
        version = max(self._first, index - self._lag)
        params = self._wait_for(version)[actor.device]
        self._offer(q, actor.unroll(params, version, index, self._stop.is_set))
    except Interrupted:
      pass
    except BaseException as failure:
      # Kept before the others are told to stop: `_take` finds the cause, not an interruption.
      self._failures.append(failure)
      self._stop.set()

  def _wait_for(self, version: int) -> Published:
    """Returns the parameters of that version, once they are there."""
    with self._published:
      while version not in self._params:
        if self._stop.is_set():
          raise Interrupted
        self._published.wait(POLL)
      return self._params[version]

  def _offer(self, q: "queue.Queue[Rollout]", rollout: Rollout) -> None:
    while not self._stop.is_set():
      try:
        return q.put(rollout, timeout=POLL)
      except queue.Full:
        continue
    raise Interrupted


def concatenate(rollouts: Sequence[Rollout]) -> Rollout:
  """Makes one rollout [T+1, B] of those of all actors, in order of their environments."""
  if len(rollouts) == 1:
    return rollouts[0]
  trajectories = [r.trajectory for r in rollouts]

  def join(axis):
    return lambda *x: np.concatenate(x, axis)

  fields = [
    jax.tree.map(join(axis), *parts) for axis, *parts in zip(BATCH_AXES, *trajectories, strict=True)
  ]
  # Actors run at the same time: their seconds are averaged, where env steps are added.
  return Rollout(
    Trajectory(*fields),
    sum(r.env_steps for r in rollouts),
    [episode for r in rollouts for episode in r.episodes],
    sum(r.env_wait for r in rollouts) / len(rollouts),
    sum(r.act_time for r in rollouts) / len(rollouts),
  )

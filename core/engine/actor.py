"""The actor: one batched rollout loop over one or more environment pools."""

import collections
import logging
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from ..agent.functions import Functions, act
from ..api.contracts import Environment
from ..api.timesteps import as_specified
from ..api.types import ActorParams, Array, Device, PyTree, TimeStep, Trajectory
from ..record.episodes import EpisodeCounter

_LOG = logging.getLogger(__name__)


class Interrupted(Exception):
  """The run was asked to stop, or stops, while this waited or acted."""


class Rollout(NamedTuple):
  """One trajectory of all of an actor's environments, and what happened on the way."""

  trajectory: Trajectory  # NumPy, [T+1, B, ...]
  env_steps: int  # new in this trajectory, of single environments
  episodes: list[tuple[float, int]]  # raw return and length of those that finished, in order
  env_wait: float  # seconds spent waiting for environments
  act_time: float  # seconds spent in the network


class _Group:
  """One pool and what the actor carries for it from trajectory to trajectory."""

  def __init__(self, pool: Environment, core_state: PyTree, rows: slice, stagger: bool):
    self.pool = pool
    self.rows = rows  # of the actor's batch
    self.core_state = core_state
    self.starts = collections.deque[PyTree]()  # core states at the starts of coming trajectories
    self.timestep = as_specified(pool.reset(stagger), pool.spec)
    self._counter = EpisodeCounter(pool.num_envs)

  def receive(self) -> list[tuple[float, int]]:
    """Waits for the pool's next timestep; returns the episodes found to have finished."""
    self.timestep = as_specified(self.pool.recv(), self.pool.spec)
    return self._counter.add(self.timestep)


class Actor:
  """Steps its pools in turn: while the network acts for one, the others step their environments."""

  def __init__(
    self,
    agent: Functions,
    pools: Sequence[Environment],
    device: Device,
    key: Array,
    unroll_length: int,
    overlap: int = 0,
    stagger: bool = False,
  ):
    """Resets the pools.

    Args:
      agent: acts.
      pools: of equal spec; their environments make up the actor's batch, in order.
      device: the network acts there.
      key: all that is drawn follows from it and the index of the trajectory.
      unroll_length: T.
      overlap: transitions at the end of a trajectory that begin the next one too, less than T.
      stagger: environments start at different steps of their first episode (see Environment).
    """
    self.device = device
    self._key = key
    self._unroll_length, self._overlap = unroll_length, overlap
    self._previous: _Buffer | None = None  # the last trajectory, if the next one overlaps it
    self._groups = []
    start = 0
    for pool in pools:
      rows = slice(start, start + pool.num_envs)
      core_state = jax.device_put(agent.network.initial_state(pool.num_envs), device)
      self._groups.append(_Group(pool, core_state, rows, stagger))
      start = rows.stop
    self._batch_size = start
    self._agent = agent

  @property
  def pools(self) -> list[Environment]:
    """The pools, one a group, in the order of their environments in the batch."""
    return [group.pool for group in self._groups]

  @property
  def timestep(self) -> TimeStep:
    """The last timestep of the first pool, [B, ...]."""
    return self._groups[0].timestep

  def unroll(
    self, actor_params: ActorParams, version: int, index: int, stopping: Callable[[], bool]
  ) -> Rollout:
    """Acts for the next trajectory [T+1, B] of all environments, of whose T `overlap` are known.

    The first trajectory has none before it, and so its T transitions are all new.

    Args:
      actor_params: on this actor's device; its discounts are [P + E + C].
      version: number of updates they have behind them.
      index: of the trajectory, counted from the start of training; seeds what is drawn.
      stopping: says that the run is to end; asked at every step, as a trajectory may take seconds.

    Raises:
      Interrupted: it is; after that the actor can only be closed.
    """
    # By its index, which a resumed run counts on from: what is drawn does not depend on restarts.
    key = jax.random.fold_in(self._key, index)
    keys = [jax.random.fold_in(key, number) for number in range(len(self._groups))]
    # Trajectories begin `stride` steps apart.
    length, stride = self._unroll_length, self._unroll_length - self._overlap
    trajectory = _Buffer(length, self._batch_size)
    start = 0
    if self._previous is not None:
      start = self._overlap
      trajectory.begin_with(self._previous, stride)
    episodes: list[tuple[float, int]] = []
    waited = acted = 0.0
    clock = time.perf_counter
    # T + 1 timesteps for T actions: the last bootstraps, and the next trajectory goes on from it.
    for t in range(start, length + 1):
      if stopping():
        raise Interrupted
      for group, group_key in zip(self._groups, keys, strict=True):
        # At `start` the timestep is there: from the reset, or the last of the trajectory before.
        if t > start:
          began = clock()
          episodes += group.receive()
          waited += clock() - began
        trajectory.timestep(t, group.rows, group.timestep)
        if t < length:
          if t % stride == 0:
            # A trajectory begins here, perhaps a later one: it is learned from with this state.
            group.starts.append(group.core_state)
          began = clock()
          step = (group.timestep, group.core_state, group_key, np.int32(t - start))
          action, sample, mu, group.core_state = act(self._agent, actor_params, *step)
          # Sent before it is written down: the pool steps meanwhile, and while other groups act.
          group.pool.send(np.asarray(action))
          trajectory.decision(t, group.rows, np.asarray(sample), np.asarray(mu), version)
          acted += clock() - began
    self._previous = trajectory if self._overlap else None
    # The state that this trajectory began with; what is left there is of later ones, which overlap.
    starts = jax.device_get([group.starts.popleft() for group in self._groups])
    core_state = jax.tree.map(lambda *x: np.concatenate(x), *starts)
    env_steps = (length - start) * self._batch_size
    return Rollout(trajectory.finish(core_state), env_steps, episodes, waited, acted)

  def close(self) -> None:
    """Closes the pools; one that fails to is a warning, as it must not hide why the run ended."""
    for group in self._groups:
      try:
        group.pool.close()
      except Exception as error:
        _LOG.warning("an environment pool could not be closed: %r", error)


class _Buffer:
  """Arrays of one trajectory, filled row by row; new ones each time, as JAX may alias them."""

  def __init__(self, unroll_length: int, batch_size: int):
    self._length, self._batch_size = unroll_length, batch_size
    self._arrays: dict[str, np.ndarray] = {}

  def begin_with(self, other: "_Buffer", skip: int) -> None:
    """Takes over what the other holds after its first `skip` transitions."""
    for name, x in other._arrays.items():
      self._arrays[name] = np.empty_like(x)
      self._arrays[name][: len(x) - skip] = x[skip:]

  def _write(self, name: str, time: int, t: int, rows: slice, x: np.ndarray) -> None:
    if name not in self._arrays:
      self._arrays[name] = np.empty((time, self._batch_size, *x.shape[1:]), x.dtype)
    self._arrays[name][t, rows] = x

  def timestep(self, t: int, rows: slice, timestep: TimeStep) -> None:
    """Writes the timesteps of some rows, [B', ...], as those of step t, from 0 to T."""
    for name, x in timestep._asdict().items():
      self._write(name, self._length + 1, t, rows, x)

  def decision(self, t: int, rows: slice, sample: np.ndarray, mu: np.ndarray, version: int) -> None:
    """Writes what some rows were sent at step t, from 0 to T - 1.

    Args:
      t: the step.
      rows: of the batch.
      sample: what was drawn, [B', ...].
      mu: parameters of the distribution it was drawn from, [B', A].
      version: number of updates behind the parameters that acted.
    """
    versions = np.full(len(sample), version, np.int32)
    for name, x in (("action", sample), ("behaviour", mu), ("params_version", versions)):
      self._write(name, self._length, t, rows, x)

  def finish(self, core_state: PyTree) -> Trajectory:
    """Returns the trajectory [T+1, B]; `core_state` is that of its first timestep, [B, ...]."""
    a = self._arrays
    return Trajectory(
      timestep=TimeStep(a["observation"], a["reward"], a["discount"], a["first"]),
      action=a["action"],
      behaviour=a["behaviour"],
      core_state=core_state,
      params_version=a["params_version"],
    )

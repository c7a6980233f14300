"""Independent runs whose environments are one pool on the host: R runs act and learn as one.

What `core.runs.device` is to environments on the device. Every run has its own seed, settings,
environments, parameters and traces; one compiled program acts for all and another one learns.
"""

import functools
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ..agent.functions import Functions
from ..agent.update import guarded_step
from ..api.contracts import EnvPlugin, phases_of
from ..api.online import Ends, RunState, count, unless_ended
from ..api.timesteps import as_specified
from ..api.types import Array, Device, Metrics, PyTree, TimeStep
from ..engine import environments
from ..machine.seeding import env_seeds
from .iteration import Waited, act, acts, first_run, learned, trajectory
from .layout import AXIS
from .population import inherited
from .settings import Members, check, rows_of, with_settings
from .share import Share


class PoolRuns:
  """R independent runs of one agent, their environments in one pool."""

  def __init__(
    self,
    members: Members,
    env: EnvPlugin,
    devices: Sequence[Device],
    restart: int = 0,
    stagger: bool = False,
    micro_batch: int | None = None,
  ):
    """Makes the pool and takes its first timesteps.

    Args:
      members: the runs.
      env: of every run.
      devices: runs are split over as many of them as divide R.
      restart: how many starts of the training came before this one; environments get new seeds at
        each.
      stagger: environments start at different steps of their first episode (see Environment).
      micro_batch: trajectories of a run that a device learns from at a time; None for all.

    Raises:
      ValueError: a setting is of no component that is there, or not R numbers.
    """
    check((members.agent,), members.settings, members.size)
    self.members, self._share = members, Share(1, micro_batch)
    # Run by run: rows of the pool, [R * B], are then [R, B] by a reshape.
    self.env_seeds = tuple(
      s for seed in members.seeds for s in env_seeds(seed, restart, 0, members.num_envs)
    )
    self._lead = (members.size, members.num_envs)
    self.waited = Waited()
    self._pool = environments.make(env, self.env_seeds)
    # Unlike in `Runs` no copies fill the devices: they would need environments of their own.
    used = max(n for n in range(1, len(devices) + 1) if members.size % n == 0)
    self._sharding = NamedSharding(Mesh(devices[:used], (AXIS,)), P(AXIS))
    self._values = self._on_devices(rows_of(members.settings))
    self._inherit: Any = None  # compiled with the first states that it is of
    self._first = self._rows(self._pool.reset(stagger))
    self._init = jax.jit(jax.vmap(self._first_run))
    self._act = jax.jit(jax.vmap(self._act_one, in_axes=(0, 0, 0, 0, None)))
    # What was seen in a trajectory is stacked over time, [T, R, B, ...], so R is its second axis.
    in_axes = (0, 0, 1, 1, 1, 0)
    # A program for each phase of the meta-optimiser's cycle: phases are numbers of Python's.
    learners = [
      functools.partial(self._learn_one, n) for n in range(phases_of(members.agent.metaopt))
    ]
    # Argument 1, the states, is donated; argument 0, the settings, serves every update.
    self._learn = [jax.jit(jax.vmap(f, in_axes=in_axes), donate_argnums=1) for f in learners]
    self.metrics: Metrics = {}  # [R], of each run's last update in `advance`; NaN: it made none

  def init(self) -> RunState:
    """Makes the first states of all runs, [R, ...].

    Raises:
      UserError: the meta-optimiser cannot learn from such batches.
    """
    seeds = self._on_devices(np.asarray(self.members.seeds, np.uint32))
    return self._init(seeds, self._values, self._first)

  def saved(self, states: RunState) -> RunState:
    """Returns what a checkpoint holds: the states [R, ...] as they are."""
    return states

  def resume(self, saved: RunState) -> RunState:
    """Returns saved states [R, ...] with the environments as they are, at the start of episodes."""
    # The pool cannot be put back to where it was: all that is about an episode begins with it anew.
    fresh = self.init()
    kept = ("learner", "finished", "env_steps", "key", "acting")
    return fresh._replace(**{name: getattr(saved, name) for name in kept})

  def advance(self, states: RunState, iterations: int) -> tuple[RunState, Ends]:
    """Makes so many iterations of every run that is still going; `states` are donated.

    Args:
      states: [R, ...].
      iterations: how many; each is an update for every phase of the meta-optimiser's cycle.

    Returns:
      The states [R, ...], and the ends of episodes, [R, N * iterations * T, B] of
      N phases.
    """
    ended, act_time, env_wait = [], 0.0, 0.0
    self.metrics = {}
    for phase in list(range(len(self._learn))) * iterations:
      # A whole trajectory is acted by `states` as they are here: only these two move on in it.
      timestep, core_state, seen = states.timestep, states.core_state, []
      for t in range(self.members.unroll_length):
        begun = time.perf_counter()
        sample, mu, core_state, action = self._act(
          states, timestep, core_state, self._values, jnp.int32(t)
        )
        # Waits for the device: what follows is time of the environments.
        action = np.asarray(action)
        acted = time.perf_counter()
        # A pool steps all of its environments, those of runs that have ended as well.
        self._pool.send(action.reshape(-1, *action.shape[2:]))
        received = self._pool.recv()
        stepped = time.perf_counter()
        act_time, env_wait = act_time + acted - begun, env_wait + stepped - acted
        timestep = self._rows(received)
        seen.append((timestep, sample, mu))
      # T times [R, B, ...] -> [T, R, B, ...].
      stacked = jax.tree.map(lambda *x: jnp.stack(x), *seen)
      states, ends, metrics = self._learn[phase](self._values, states, *stacked, core_state)
      ended.append(ends)
      # A run that made no update keeps the metrics of its last one; of none else is this lag NaN.
      made = ~jnp.isnan(metrics["policy_lag"])
      before = self.metrics or metrics
      self.metrics = {name: jnp.where(made, x, before[name]) for name, x in metrics.items()}
    updates = iterations * len(self._learn)
    self.waited = Waited(env_wait / updates, act_time / updates)
    return states, jax.tree.map(lambda *x: np.concatenate(x, axis=1), *ended)

  def trace(self, states: RunState, iterations: int) -> None:
    """Traces what learns from states [R, ...]: what a plugin gives is known before files are left.

    Raises:
      UserError: a plugin gives what it must not.
    """
    del iterations  # each is the same compiled program
    # One step stands for all T: only shapes count.
    many = lambda x: jnp.stack([x] * self.members.unroll_length)

    def learn(states: RunState) -> PyTree:
      sample, mu, core_state, _ = self._act(
        states, states.timestep, states.core_state, self._values, jnp.int32(0)
      )
      seen = jax.tree.map(many, (states.timestep, sample, mu))
      return [learn(self._values, states, *seen, core_state) for learn in self._learn]

    jax.eval_shape(learn, states)

  def take(self, settings: Mapping[str, Sequence[float]]) -> None:
    """Goes on with other values of the settings, R numbers each; nothing is compiled anew."""
    self.members = self.members._replace(settings=settings)
    self._values = self._on_devices(rows_of(settings))

  def inherit(self, states: RunState, parents: np.ndarray) -> RunState:
    """Makes the learners of runs copies of others', whose numbers are int [R]; as `Runs` does."""
    if self._inherit is None:
      given = jax.tree.map(lambda x: x.sharding, states)
      self._inherit = jax.jit(inherited, donate_argnums=0, out_shardings=given)
    return self._inherit(states, self._on_devices(np.asarray(parents, np.int32)))

  def of_each(self, x: Array) -> np.ndarray:
    """Returns what is of each run, [R, ...], on the host."""
    return np.asarray(x)

  def close(self) -> None:
    """Closes the pool."""
    self._pool.close()

  def _on_devices(self, rows: PyTree) -> PyTree:
    return jax.device_put(rows, self._sharding)

  def _rows(self, timestep: TimeStep) -> TimeStep:
    """Puts timesteps of the pool, [R * B, ...], on the devices as those of runs, [R, B, ...]."""
    timestep = as_specified(timestep, self._pool.spec)
    return self._on_devices(
      jax.tree.map(lambda x: np.reshape(x, self._lead + np.shape(x)[1:]), timestep)
    )

  def _built(self, values: Mapping[str, Array]) -> Functions:
    agent = with_settings(self.members.agent, values)
    fns = Functions(agent, self._pool.spec, self.members.total_updates)
    return self._share.of(fns, self.members.num_envs)

  def _first_run(self, seed: Array, values: Mapping[str, Array], timestep: TimeStep) -> RunState:
    # Split as in `Runs`, where the first key is that of the environments.
    _, *keys = jax.random.split(jax.random.key(seed), 4)
    t, lag = self.members.unroll_length, self.members.lag
    return first_run(self._built(values), tuple(keys), (), timestep, t, lag)

  def _act_one(self, state, timestep, core_state, values, t):
    fns = self._built(values)
    now = state._replace(timestep=timestep, core_state=core_state)
    sample, mu, core_state = act(fns, acts(fns, state), now, t)
    return sample, mu, core_state, fns.distribution.to_action(sample)

  def _learn_one(self, phase, values, state, timesteps, samples, mus, core_state):
    # `scan` counts step by step: `ends` is [T, B].
    acted, ends = jax.lax.scan(count, state, timesteps)
    batch = trajectory(state, timesteps, samples, mus)
    fns = self._built(values)
    learner, metrics = guarded_step(fns, acted.learner, batch, phase=phase)
    # Asked of the state before the update: one that diverges in it still made it.
    going = self.members.active(state)
    metrics = {name: jnp.where(going, x, jnp.nan) for name, x in metrics.items()}
    new, ends = unless_ended(going, (learned(fns, acted, learner), ends), state)
    # The pool also steps the environments of a run that stands still. A population may make it a
    # copy that goes on: from where they are then, amid the episode that is under way.
    last = jax.tree.map(lambda x: x[-1], timesteps)
    new = new._replace(
      timestep=last, core_state=core_state, returns=acted.returns, lengths=acted.lengths
    )
    return new, ends, metrics

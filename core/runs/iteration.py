"""One iteration of one run on the device: T steps of its environments, and an update."""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..agent.functions import Functions
from ..agent.update import first_state, guarded_step, trajectory_shapes
from ..api.contracts import FunctionalEnvironment, phases_of
from ..api.online import Ends, RunState, count
from ..api.timesteps import as_specified
from ..api.types import ActorParams, Array, LearnerState, Metrics, PyTree, TimeStep, Trajectory
from .share import Share


class Waited(NamedTuple):
  """Where the time of the host went, in seconds an update; as in a `Rollout`."""

  env_wait: float = 0.0  # spent waiting for environments
  act_time: float = 0.0  # spent in the network that acts


def first_run(
  fns: Functions,
  keys: tuple[Array, Array, Array],
  env_state: PyTree,
  timestep: TimeStep,
  unroll_length: int,
  lag: int,
) -> RunState:
  """Makes a run before its first step; it has B environments.

  Args:
    fns: of the agent.
    keys: of parameters, learner and actions.
    env_state: [B, ...], of environments on the device.
    timestep: [B, ...], their first.
    unroll_length: T, of the trajectories to come.
    lag: how many updates old the parameters are that act.
  """
  params_key, learner_key, key = keys
  b = timestep.first.shape[0]
  batch = trajectory_shapes(fns, timestep, unroll_length)
  learner = first_state(fns, params_key, learner_key, batch)
  # A ring of `lag` slots: until it is full, the first parameters act.
  many = lambda x: jnp.broadcast_to(x, (lag, *x.shape))
  return RunState(
    learner=learner,
    env=env_state,
    timestep=timestep,
    core_state=fns.network.initial_state(b),
    returns=jnp.zeros(b, jnp.float32),
    lengths=jnp.zeros(b, jnp.int32),
    finished=jnp.zeros((), jnp.int32),
    env_steps=jnp.zeros((), jnp.int32),
    key=key,
    acting=jax.tree.map(many, actor_params(fns, learner)) if lag else (),
  )


def actor_params(fns: Functions, state: LearnerState) -> ActorParams:
  """Returns what this state would act by: parameters, and discounts [P + E + C]."""
  return ActorParams(state.params, fns.gamma(fns.values(state.meta_state)))


def lag_of(state: RunState) -> int:
  """Returns how many updates old what acts is, of one run."""
  return len(state.acting.gamma) if state.acting else 0


def acts(fns: Functions, state: RunState) -> ActorParams:
  """Returns what acts in a run now: of `lag` updates ago, or the first there was."""
  if not state.acting:
    return actor_params(fns, state.learner)
  # Slot k mod lag was written in update k - lag (see `learned`), with what that update began from.
  slot = state.learner.step % lag_of(state)
  return jax.tree.map(lambda x: x[slot], state.acting)


def learned(fns: Functions, state: RunState, learner: LearnerState) -> RunState:
  """Returns the run after an update to `learner`; what it learned before will act `lag` later."""
  if not state.acting:
    return state._replace(learner=learner)
  # The slot that has just acted is the oldest; it is written after that, and read `lag` later.
  slot = state.learner.step % lag_of(state)
  put = lambda ring, x: ring.at[slot].set(x)
  acting = jax.tree.map(put, state.acting, actor_params(fns, state.learner))
  return state._replace(learner=learner, acting=acting)


def act(
  fns: Functions, actor: ActorParams, state: RunState, t: Array | int
) -> tuple[Array, Array, PyTree]:
  """Acts at step t of a trajectory.

  Args:
    fns: of the agent.
    actor: parameters, and discounts [P + E + C].
    state: of the run, with timesteps and core states [B, ...].
    t: from 0 to T - 1, [].

  Returns:
    Samples [B, ...], behaviour parameters [B, A] and core states [B, ...].
  """
  # The key of a run stays the same: what is drawn follows from the update's number, resumed or not.
  key = jax.random.fold_in(state.key, state.learner.step)
  return fns.act(actor, state.timestep, state.core_state, key, jnp.asarray(t))


def trajectory(start: RunState, timesteps: TimeStep, samples: Array, mus: Array) -> Trajectory:
  """Puts a trajectory [T+1, B] together.

  Args:
    start: of the run, when it began: has timestep 0 and its core state, [B, ...].
    timesteps: that the actions led to, [T, B, ...].
    samples: the actions, [T, B, ...].
    mus: behaviour parameters, [T, B, A].
  """
  # T transitions lie between T + 1 timesteps: the first is the last one of the trajectory before.
  whole = jax.tree.map(
    lambda first, rest: jnp.concatenate([first[None], rest]), start.timestep, timesteps
  )
  # Updates behind the parameters that acted: none as long as the ring is not full.
  made = jnp.maximum(start.learner.step - lag_of(start), 0)
  version = jnp.broadcast_to(made, timesteps.first.shape)
  return Trajectory(whole, samples, mus, start.core_state, version)


def iterate(
  fns: Functions,
  env: FunctionalEnvironment,
  unroll_length: int,
  share: Share,
  state: RunState,
) -> tuple[RunState, Ends, Metrics]:
  """Makes T steps of each environment of one run and an update, for each phase of a cycle.

  Args:
    fns: of the agent, for a share of the batch.
    env: one environment.
    unroll_length: T.
    share: how the batch is split.
    state: of the run, with the environments of this device.

  Returns:
    The new state; the episodes that ended in these environments, [N * T, B] of N phases; metrics []
    of the last update.
  """
  ended = []
  # A loop of Python's: a phase is no traced number, see `api.Cyclic`.
  for phase in range(phases_of(fns.metaopt)):
    state, ends, metrics = _iterate(fns, env, unroll_length, share, state, phase)
    ended.append(ends)
  return state, jax.tree.map(lambda *x: jnp.concatenate(x), *ended), metrics


def _iterate(
  fns: Functions,
  env: FunctionalEnvironment,
  unroll_length: int,
  share: Share,
  state: RunState,
  phase: int,
) -> tuple[RunState, Ends, Metrics]:
  """Makes T steps of each environment of one run, and an update, whose metrics are []."""
  # Once, outside of the loop: the same parameters act all through the trajectory.
  actor = acts(fns, state)

  def step(state: RunState, t: Array):
    sample, mu, core_state = act(fns, actor, state, t)
    env_state, timestep = jax.vmap(env.step)(state.env, fns.distribution.to_action(sample))
    timestep = as_specified(timestep, env.spec, jnp.asarray)
    state, ends = count(state, timestep)
    state = state._replace(env=env_state, timestep=timestep, core_state=core_state)
    return state, ((timestep, sample, mu), ends)

  # `scan` stacks along time: `seen` and `ends` are [T, B, ...].
  acted, (seen, ends) = jax.lax.scan(step, state, jnp.arange(unroll_length))
  acted = share.counted(state, acted)
  # From `state`, before it acted: the batch begins with that timestep and core state.
  batch = trajectory(state, *seen)
  learner, metrics = guarded_step(fns, acted.learner, batch, share.mean, phase)
  return learned(fns, acted, learner), ends, metrics


def going(state: RunState, max_episodes: int | None, max_env_steps: int | None) -> Array:
  """Says whether runs go on: they have neither diverged nor come to a limit.

  Args:
    state: of one run, or of many, [R', ...].
    max_episodes: that a run finishes; None for no limit.
    max_env_steps: that a run makes; None for no limit.

  Returns:
    Bool, [] or [R'].
  """
  on = state.learner.failure < 0
  for made, limit in ((state.finished, max_episodes), (state.env_steps, max_env_steps)):
    on = on if limit is None else on & (made < limit)
  return on


def episodes(ends: Any, runs: int) -> list[list[tuple[float, int]]]:
  """Lists raw return and length of the episodes that ended, by run and in order.

  Args:
    ends: `Ends` on the host, [R', T, B] each.
    runs: R.
  """
  # Without the copies behind the R runs. `nonzero` goes through [R, T, B] run by run, then in time.
  where = np.nonzero(ends.ended[:runs])
  ended = list(zip(ends.episode_return[where].tolist(), ends.length[where].tolist(), strict=True))
  # Episodes of all runs are one list; this is where in it those of each run end.
  stops = np.cumsum(np.bincount(where[0], minlength=runs)).tolist()
  return [ended[low:high] for low, high in itertools.pairwise([0, *stops])]

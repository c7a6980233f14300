"""One iteration of one run on the device: T steps of its environments, and an update."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from .. import checks
from ..agent import BuiltAgent
from ..errors import plugin_mistakes
from ..interfaces import AgentFns, FunctionalEnvironment
from ..learner import first_failure, not_finite
from ..timesteps import as_specified
from ..types import ActorParams, Array, LearnerState, PyTree, TimeStep, Trajectory


class RunState(NamedTuple):
  """All of one run; B environments."""

  learner: LearnerState
  env: PyTree  # [B, ...]
  timestep: TimeStep  # [B, ...] the last one
  core_state: PyTree  # [B, ...]
  returns: Array  # [B] float32, raw, of the episode so far
  lengths: Array  # [B] int32, likewise
  finished: Array  # [] int32, episodes
  env_steps: Array  # [] int32, reset steps included
  key: Array  # of actions


class Ends(NamedTuple):
  """Which episodes ended, step by step; returns and lengths are 0 where none did."""

  ended: Array  # [T, B] bool
  episode_return: Array  # [T, B] float32
  length: Array  # [T, B] int32


class Waited(NamedTuple):
  """Seconds an update that the host spent, as in a `Rollout`."""

  env_wait: float = 0.0
  act_time: float = 0.0


Iteration = Callable[[RunState], tuple[RunState, Ends]]


@runtime_checkable
class FusesIterations(Protocol):
  """What a meta-optimiser offers that can act, step and learn in a faster form of its own."""

  def fused(
    self, fns: AgentFns, env: FunctionalEnvironment, active: Callable[[RunState], Array]
  ) -> Iteration | None:
    """Several iterations of one run in one, equal to float tolerance; None if it cannot.

    A run stands still as soon as it is not `active`.
    """
    ...


def whole_batch(f: Callable, batch: Trajectory, *stacked: PyTree) -> tuple[PyTree, PyTree, PyTree]:
  """`AgentFns.accumulate` for a batch that is neither split nor shared among devices."""
  sums, means, out = f(batch, *jax.tree.map(lambda x: x[0], stacked))
  return sums, means, jax.tree.map(lambda x: x[None], out)


def first_state(
  agent: BuiltAgent,
  fns: AgentFns,
  keys: tuple[Array, Array, Array],
  env_state: PyTree,
  timestep: TimeStep,
  unroll_length: int,
) -> RunState:
  """A run before its first step.

  Args:
    agent: of the run.
    fns: of the agent.
    keys: of parameters, learner and actions.
    env_state: [B, ...], of environments on the device.
    timestep: [B, ...], their first.
    unroll_length: T, of the trajectories to come.
  """
  params_key, learner_key, key = keys
  b = timestep.first.shape[0]
  params = agent.network.init(params_key)
  zero = jnp.zeros((), jnp.int32)
  learner = LearnerState(params, agent.init_optimizer(params), (), zero, learner_key, zero - 1)
  core_state = agent.network.initial_state(b)
  nothing, counted = jnp.zeros(b, jnp.float32), jnp.zeros(b, jnp.int32)
  state = RunState(learner, env_state, timestep, core_state, nothing, counted, zero, zero, key)

  def some_trajectory(state: RunState) -> Trajectory:
    gamma = jnp.zeros(agent.behaviour.acting_heads)
    sample, mu, _ = act(agent, gamma, state, 0)
    repeat = lambda x: jax.tree.map(lambda x: jnp.stack([x] * unroll_length), x)
    return trajectory(state, *map(repeat, (timestep, sample, mu)))

  metaopt = agent.agent.metaopt
  with plugin_mistakes():
    meta_state = metaopt.init(fns, learner, jax.eval_shape(some_trajectory, state))
  checks.arrays(checks.who(metaopt), "its meta state", meta_state)
  return state._replace(learner=learner._replace(meta_state=meta_state))


def head_gamma(agent: BuiltAgent, fns: AgentFns, state: RunState) -> Array:
  """The discounts of the agent's heads, as they are now."""
  metaopt = agent.agent.metaopt
  values = metaopt.values(fns, state.learner.meta_state)
  return fns.gamma(checks.values(checks.who(metaopt), values, fns.tunable_shapes))


def act(
  agent: BuiltAgent, gamma: Array, state: RunState, t: Array | int
) -> tuple[Array, Array, PyTree]:
  """Samples, behaviour parameters and core states at step t of a trajectory, all [B, ...]."""
  key = jax.random.fold_in(state.key, state.learner.step)
  actor = ActorParams(state.learner.params, gamma)
  return agent.act(actor, state.timestep, state.core_state, key, jnp.asarray(t))


def trajectory(start: RunState, timesteps: TimeStep, samples: Array, mus: Array) -> Trajectory:
  """Of what began at `start`; the rest is [T, B, ...], timesteps those that actions led to."""
  whole = jax.tree.map(
    lambda first, rest: jnp.concatenate([first[None], rest]), start.timestep, timesteps
  )
  version = jnp.broadcast_to(start.learner.step, timesteps.first.shape)
  return Trajectory(whole, samples, mus, start.core_state, version)


def learn(agent: BuiltAgent, fns: AgentFns, state: RunState, batch: Trajectory) -> RunState:
  """An update, kept only if it is finite."""
  old, metaopt = state.learner, agent.agent.metaopt
  learner, metrics = checks.updated(checks.who(metaopt), metaopt.step(fns, old, batch), old)
  failure = first_failure(metrics, not_finite(batch.timestep))
  learner = learner._replace(step=learner.step + 1)
  learner = jax.tree.map(lambda new, old: jnp.where(failure < 0, new, old), learner, old)
  return state._replace(learner=learner._replace(failure=failure))


def iterate(
  agent: BuiltAgent, env: FunctionalEnvironment, fns: AgentFns, unroll_length: int, state: RunState
) -> tuple[RunState, Ends]:
  """T steps of each environment of one run, and an update."""
  gamma = head_gamma(agent, fns, state)

  def step(state: RunState, t: Array):
    sample, mu, core_state = act(agent, gamma, state, t)
    env_state, timestep = jax.vmap(env.step)(state.env, agent.distribution.to_action(sample))
    timestep = as_specified(timestep, env.spec, jnp.asarray)
    state, ends = count(state, timestep)
    state = state._replace(env=env_state, timestep=timestep, core_state=core_state)
    return state, ((timestep, sample, mu), ends)

  acted, (seen, ends) = jax.lax.scan(step, state, jnp.arange(unroll_length))
  return learn(agent, fns, acted, trajectory(state, *seen)), ends


def going(state: RunState, max_episodes: int | None, max_env_steps: int | None) -> Array:
  """Whether runs go on: they have neither diverged nor, where it ends them, come so far."""
  on = state.learner.failure < 0
  for made, limit in ((state.finished, max_episodes), (state.env_steps, max_env_steps)):
    on = on if limit is None else on & (made < limit)
  return on


def unless_ended(going: Array, new: tuple[PyTree, Ends], old: PyTree) -> tuple[PyTree, Ends]:
  """What a run came to, if it was still going; else it stays as it was, and nothing ended."""
  state = jax.tree.map(lambda new, old: jnp.where(going, new, old), new[0], old)
  return state, jax.tree.map(lambda x: jnp.where(going, x, jnp.zeros_like(x)), new[1])


def count(state: RunState, timestep: TimeStep) -> tuple[RunState, Ends]:
  """Adds a new timestep to the episode's return and length; an episode has ended where FIRST."""
  first = timestep.first
  ends = Ends(first, jnp.where(first, state.returns, 0.0), jnp.where(first, state.lengths, 0))
  state = state._replace(
    returns=jnp.where(first, 0, state.returns + timestep.reward),
    lengths=jnp.where(first, 0, state.lengths + 1),
    finished=state.finished + jnp.sum(first, dtype=jnp.int32),
    env_steps=state.env_steps + jnp.int32(first.size),
  )
  return state, ends


def episodes(ends: Any, runs: int) -> list[list[tuple[float, int]]]:
  """Raw return and length of the episodes that ended, by run and in order; `ends` on the host."""
  found: list[list[tuple[float, int]]] = [[] for _ in range(runs)]
  for run, t, b in zip(*np.nonzero(ends.ended[:runs]), strict=True):
    found[run].append((float(ends.episode_return[run, t, b]), int(ends.length[run, t, b])))
  return found

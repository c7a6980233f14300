"""One iteration of one run on the device: T steps of its environments, and an update."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..agent.functions import BuiltAgent
from ..api.contracts import AgentFns, FunctionalEnvironment
from ..api.errors import plugin_mistakes
from ..api.online import Ends, RunState, count
from ..api.types import ActorParams, Array, LearnerState, PyTree, TimeStep, Trajectory
from ..engine.learner import first_failure


class Waited(NamedTuple):
  """Seconds an update that the host spent, as in a `Rollout`."""

  env_wait: float = 0.0
  act_time: float = 0.0


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

  with plugin_mistakes():
    meta_state = agent.agent.metaopt.init(fns, learner, jax.eval_shape(some_trajectory, state))
  return state._replace(learner=learner._replace(meta_state=meta_state))


def head_gamma(agent: BuiltAgent, fns: AgentFns, state: RunState) -> Array:
  """The discounts of the agent's heads, as they are now."""
  return fns.gamma(agent.agent.metaopt.values(fns, state.learner.meta_state))


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
  old = state.learner
  learner, metrics = agent.agent.metaopt.step(fns, old, batch)
  failure = first_failure(metrics)
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


def episodes(ends: Any, runs: int) -> list[list[tuple[float, int]]]:
  """Raw return and length of the episodes that ended, by run and in order; `ends` on the host."""
  found: list[list[tuple[float, int]]] = [[] for _ in range(runs)]
  for run, t, b in zip(*np.nonzero(ends.ended[:runs]), strict=True):
    found[run].append((float(ends.episode_return[run, t, b]), int(ends.length[run, t, b])))
  return found

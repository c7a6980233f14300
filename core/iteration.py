"""One iteration of one run on the device: T steps of its environments, and an update."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from .agent import BuiltAgent
from .interfaces import AgentFns, FunctionalEnvironment
from .learner import first_failure
from .types import ActorParams, Array, LearnerState, PyTree, TimeStep, Trajectory


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


def iterate(
  agent: BuiltAgent, env: FunctionalEnvironment, fns: AgentFns, unroll_length: int, state: RunState
) -> tuple[RunState, Ends]:
  """T steps of each environment of one run, and an update, kept only if it is finite."""
  gamma = fns.gamma(agent.agent.metaopt.values(fns, state.learner.meta_state))
  acted, trajectory, ends = unroll(agent, env, gamma, unroll_length, state)
  learner, metrics = agent.agent.metaopt.step(fns, state.learner, trajectory)
  failure = first_failure(metrics)
  learner = learner._replace(step=learner.step + 1)
  learner = jax.tree.map(lambda new, old: jnp.where(failure < 0, new, old), learner, state.learner)
  return acted._replace(learner=learner._replace(failure=failure)), ends


def unroll(
  agent: BuiltAgent, env: FunctionalEnvironment, gamma: Array, unroll_length: int, state: RunState
) -> tuple[RunState, Trajectory, Ends]:
  """T steps of each environment of one run: the trajectory, and the episodes that ended."""
  actor = ActorParams(state.learner.params, gamma)
  key = jax.random.fold_in(state.key, state.learner.step)

  def step(state: RunState, t: Array):
    sample, mu, core_state = agent.act(actor, state.timestep, state.core_state, key, t)
    env_state, timestep = jax.vmap(env.step)(state.env, agent.distribution.to_action(sample))
    state, ends = count(state, timestep)
    state = state._replace(env=env_state, timestep=timestep, core_state=core_state)
    return state, (timestep, sample, mu, ends)

  start = state
  state, (timesteps, samples, mus, ends) = jax.lax.scan(step, start, jnp.arange(unroll_length))
  timesteps = jax.tree.map(
    lambda first, rest: jnp.concatenate([first[None], rest]), start.timestep, timesteps
  )
  version = jnp.broadcast_to(start.learner.step, timesteps.first[1:].shape)
  return state, Trajectory(timesteps, samples, mus, start.core_state, version), ends


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

"""The first state of an agent that learns, and an update that is kept only if it is finite."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ..api import checks
from ..api.contracts import Cyclic, DescribesState, MetaOptimizer
from ..api.errors import plugin_mistakes
from ..api.failures import culprits, first_failure, not_finite, without_flags
from ..api.types import ActorParams, Array, Described, LearnerState, Metrics, TimeStep, Trajectory
from ..experiment import Agent
from .functions import Functions


def trajectory_shapes(fns: Functions, timestep: TimeStep, unroll_length: int) -> Trajectory:
  """Returns the shapes and dtypes of the trajectories that an agent learns from.

  Args:
    fns: of the agent.
    timestep: of the environments, [B, ...].
    unroll_length: T.

  Returns:
    A Trajectory [T+1, B, ...] of `jax.ShapeDtypeStruct`.
  """

  def over(time, tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((time, *x.shape), x.dtype), tree)

  def act(timestep):
    core_state = fns.network.initial_state(timestep.first.shape[0])
    # Any keys and discounts will do: shapes do not depend on them.
    actor = ActorParams(fns.network.init(jax.random.key(0)), jnp.zeros(fns.behaviour.acting_heads))
    sample, mu, _ = fns.act(actor, timestep, core_state, jax.random.key(0), jnp.zeros((), int))
    return sample, mu, core_state

  sample, mu, core_state = jax.eval_shape(act, timestep)  # traced alone: nothing is computed
  version = jax.ShapeDtypeStruct(timestep.first.shape, jnp.int32)
  return Trajectory(
    timestep=over(unroll_length + 1, timestep),
    action=over(unroll_length, sample),
    behaviour=over(unroll_length, mu),
    core_state=core_state,
    params_version=over(unroll_length, version),
  )


def first_state(fns: Functions, params_key: Array, key: Array, batch: Trajectory) -> LearnerState:
  """Makes the state before the first update.

  Args:
    fns: of the agent.
    params_key: draws the parameters.
    key: for meta-optimisers that draw.
    batch: shapes of what it will learn from, [T+1, B].

  Raises:
    UserError: the meta-optimiser does not take such batches.
  """
  params = fns.network.init(params_key)
  zero = jnp.zeros((), jnp.int32)
  # failure = -1: all has been finite so far. A meta-optimiser sees the state without its own part.
  state = LearnerState(params, fns.init_optimizer(params), (), zero, key, zero - 1)
  with plugin_mistakes():
    meta_state = fns.metaopt.init(fns, state, batch)
  meta_state = checks.arrays(checks.who(fns.metaopt), "its meta state", meta_state)
  return state._replace(meta_state=meta_state)


def guarded_step(
  fns: Functions,
  state: LearnerState,
  batch: Trajectory,
  mean: Callable[[Array], Array] = lambda x: x,
  phase: int = 0,
) -> tuple[LearnerState, Metrics]:
  """Makes one step of the meta-optimiser, kept only if it and all before it were finite.

  Args:
    fns: of the agent.
    state: before it.
    batch: what is learned from, [T+1, B]; its share, where devices share it.
    mean: over the devices that share the batch.
    phase: of the meta-optimiser's cycle, see `api.Cyclic`.

  Returns:
    The new state, whose `failure` says what was not finite first; and metrics [].
  """
  metaopt: Any = fns.metaopt
  stepped = metaopt.step(fns, state, batch, *((phase,) if isinstance(metaopt, Cyclic) else ()))
  new, found = checks.updated(checks.who(fns.metaopt), stepped, state)
  metrics = found | {"param_norm": optax.tree.norm(new.params)}  # theirs may be in the state, too
  lag = jnp.mean((state.step - batch.params_version).astype(jnp.float32))
  metrics["policy_lag"] = mean(lag)
  bad_inputs = mean(not_finite(batch.timestep).astype(jnp.float32)) > 0  # on any device
  # The first failure stands: what comes after it is its consequence.
  failure = jnp.where(state.failure >= 0, state.failure, first_failure(metrics, bad_inputs))
  new = new._replace(step=state.step + 1)
  # Kept on the device: asking the host at every update would stop the pipeline. It asks when it
  # logs, and finds the last good state.
  new = jax.tree.map(lambda new, old: jnp.where(failure < 0, new, old), new, state)
  return new._replace(failure=failure), without_flags(metrics)


def suspects(env: str, agent: Agent) -> list[str]:
  """Names what may make an update not finite, in the order of `LearnerState.failure`.

  Args:
    env: the name of where timesteps come from, for the messages.
    agent: whose plugins are named.
  """
  return culprits(env, agent.network, agent.objective and agent.objective.corrector)


def describe(metaopt: MetaOptimizer, state: LearnerState) -> Described:
  """Returns what the meta-optimiser has to log of a state, [] each, or histograms; {} if nothing.

  Args:
    metaopt: that has made the state.
    state: of the learner.

  Raises:
    UserError: it gives what is neither [] nor a histogram.
  """
  if not isinstance(metaopt, DescribesState):
    return {}
  return dict(checks.description(checks.who(metaopt), metaopt.describe(state)))

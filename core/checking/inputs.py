"""Made-up data for checks: every number is drawn, and of a size that plugins meet."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs

from ..agent.functions import Functions
from ..agent.update import trajectory_shapes
from ..api.contracts import Distribution
from ..api.types import (
  Array,
  CorrectorInputs,
  EnvSpec,
  LossInputs,
  PyTree,
  Targets,
  TimeStep,
  Trajectory,
)

T, B = 4, 4  # where a configuration has as many
ACTIONS = 3
DISCRETE = specs.DiscreteArray(ACTIONS, dtype=np.int32)
CONTINUOUS = specs.BoundedArray((2,), np.float32, [-1, -2], [1, 3])
# A plugin that is checked alone meets these, until one is what it serves.
OBSERVATIONS = (
  specs.Array((4,), np.float32),
  specs.Array((36, 36, 4), np.uint8),
  specs.Array((10, 10, 4), bool),
  specs.Array((6, 6, 5), np.float32),
  specs.Array((2,), np.float32),
)
SPECS = (*(EnvSpec(x, DISCRETE) for x in OBSERVATIONS), EnvSpec(OBSERVATIONS[0], CONTINUOUS))


def observations(spec: specs.Array, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
  """Draws observations [*shape, *observation], within their bounds where they have any."""
  shape = (*shape, *spec.shape)
  low, high = -np.inf, np.inf
  if isinstance(spec, specs.BoundedArray):
    low, high = (np.broadcast_to(x, spec.shape).astype(float) for x in (spec.minimum, spec.maximum))
  if spec.dtype == bool:
    return rng.random(shape) < 0.5
  if np.issubdtype(spec.dtype, np.integer):
    # At most 256 values: numbers from all of an int32 are of no size that networks meet.
    least = np.maximum(low, 0) if spec.dtype.kind == "u" else np.maximum(low, -128)
    drawn = rng.uniform(least, np.minimum(high, least + 255) + 1, shape)
    return np.floor(drawn).astype(spec.dtype)
  # Very wide bounds, such as those of float32 itself, say nothing of what is usual: as if none.
  within = np.isfinite(low) & np.isfinite(high) & (high - low < 1e6)
  uniform = rng.uniform(np.where(within, low, 0), np.where(within, high, 1), shape)
  return np.where(within, uniform, rng.normal(size=shape)).astype(spec.dtype)


def timesteps(
  spec: specs.Array, shape: tuple[int, ...], rng: np.random.Generator, dtype: Any = np.float32
) -> TimeStep:
  """Draws timesteps [*shape]: some end an episode, some are cut, some start one.

  Observations have the dtype of their spec, reward and discount the one that is given.
  """
  # Often enough for T = B = 4 to hold some of each. A FIRST timestep has reward 0 and discount 1.
  first = rng.random(shape) < 0.15
  discount = np.where(first, 1.0, rng.random(shape) > 0.15)
  reward = np.where(first, 0.0, rng.normal(size=shape))
  seen = observations(spec, shape, rng)
  return TimeStep(seen, reward.astype(dtype), discount.astype(dtype), first)


def trajectory(
  fns: Functions, spec: EnvSpec, t: int, b: int, seed: int, dtype: Any = np.float32
) -> Trajectory:
  """Draws a trajectory [T+1, B] of an agent, as if an older one of its kind had acted.

  Args:
    fns: of the agent.
    spec: of the environment.
    t: T, transitions.
    b: B, environments.
    seed: of all that is drawn.
    dtype: of real numbers.
  """
  rng = np.random.default_rng(seed)
  timestep = timesteps(spec.observation, (t + 1, b), rng, dtype)
  one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), timestep)
  shapes = trajectory_shapes(fns, one, t)
  # Half a standard normal: policies are not far from even, and IS ratios stay of ordinary size.
  mu = 0.5 * rng.normal(size=shapes.behaviour.shape).astype(dtype)
  return Trajectory(
    timestep=timestep,
    action=np.asarray(fns.distribution.sample(jax.random.key(seed), jnp.asarray(mu))),
    behaviour=mu,
    core_state=jax.tree.map(np.asarray, fns.network.initial_state(b)),
    params_version=np.zeros((t, b), np.int32),
  )


def corrector_inputs(
  t: int = T, b: int = B, seed: int = 1, dtype: Any = np.float32
) -> CorrectorInputs:
  """Draws what a corrector sees of one head, [T, B]."""
  rng = np.random.default_rng(seed)
  step = timesteps(specs.Array((), np.float32), (t, b), rng, dtype)
  normal = lambda *shape: rng.normal(size=shape).astype(dtype)
  mask = 1 - step.first.astype(dtype)
  return CorrectorInputs(normal(t, b), normal(t + 1, b), step.reward, step.discount, mask)


def loss_inputs(
  distribution: Distribution, t: int = T, b: int = B, seed: int = 1, dtype: Any = np.float32
) -> LossInputs:
  """Draws what a loss term sees of one head, [T, B]."""
  rng = np.random.default_rng(seed)
  normal = lambda *shape: rng.normal(size=(t, b, *shape)).astype(dtype)
  policy = normal(distribution.size)
  step = timesteps(specs.Array((), np.float32), (t, b), rng, dtype)
  return LossInputs(
    policy=policy,
    value=normal(),
    targets=Targets(normal(), normal()),
    action=np.asarray(distribution.sample(jax.random.key(seed), jnp.asarray(policy))),
    behaviour=normal(distribution.size),
    reference=normal(distribution.size),
    reward=step.reward,
    discount=step.discount,
    distribution=distribution,
  )


def doubled(tree: PyTree) -> PyTree:
  """Returns a tree of arrays [...] whose real numbers are float64; JAX is to be set to 64 bits."""

  def one(x: Array) -> Array:
    return jnp.asarray(x, float) if jnp.issubdtype(x.dtype, jnp.floating) else x

  return jax.tree.map(one, tree)

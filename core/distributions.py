"""Action distributions: what a policy's parameters mean.

A distribution is stateless; its methods take the parameters a network produced, with any leading
batch shape [...], and the sample as stored in a trajectory.
"""

import math
from typing import Protocol

import jax
import jax.numpy as jnp
from dm_env import specs

from .errors import UserError
from .types import Array


class Distribution(Protocol):
  """The contract of an action distribution."""

  @property
  def size(self) -> int: ...  # A, the number of parameters

  def sample(self, key: Array, params: Array) -> Array: ...  # [..., A] -> [..., *event]
  def mode(self, params: Array) -> Array: ...
  def log_prob(self, params: Array, sample: Array) -> Array: ...  # -> [...]
  def entropy(self, params: Array) -> Array: ...  # -> [...]
  def kl(self, params: Array, reference: Array) -> Array: ...  # KL(params || reference) -> [...]
  def to_action(self, sample: Array) -> Array: ...  # what the environment is sent


class Categorical:
  """Softmax policy over `size` discrete actions; the parameters are logits."""

  def __init__(self, num_actions: int):
    self.size = num_actions

  def sample(self, key: Array, params: Array) -> Array:
    return jax.random.categorical(key, params).astype(jnp.int32)

  def mode(self, params: Array) -> Array:
    return jnp.argmax(params, axis=-1).astype(jnp.int32)

  def log_prob(self, params: Array, sample: Array) -> Array:
    log_p = jax.nn.log_softmax(params)
    return jnp.take_along_axis(log_p, jnp.expand_dims(sample, -1), axis=-1).squeeze(-1)

  def entropy(self, params: Array) -> Array:
    log_p = jax.nn.log_softmax(params)
    return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)

  def kl(self, params: Array, reference: Array) -> Array:
    log_p, log_q = jax.nn.log_softmax(params), jax.nn.log_softmax(reference)
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)

  def to_action(self, sample: Array) -> Array:
    return sample


def for_action_spec(action: specs.Array) -> Distribution:
  """The distribution that serves an action space.

  Raises:
    UserError: no policy serves it.
  """
  if isinstance(action, specs.DiscreteArray) and math.prod(action.shape) == 1:
    return Categorical(int(action.num_values))
  raise UserError(
    f"no policy serves the action space {action}; "
    "a categorical policy needs one discrete action: choose an environment with discrete actions."
  )

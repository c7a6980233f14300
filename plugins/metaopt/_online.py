"""Parts that the two forms of AC(lambda), dense and sparse, have in common."""

from typing import Protocol

import jax
import jax.numpy as jnp

from ...core.api import Array, Distribution, Scalar, Tuner, UserError


class Settings(Protocol):
  """The settings of AC(lambda); `AcLambda` explains them."""

  @property
  def tuner(self) -> Tuner:
    """Sets the step sizes."""
    ...

  @property
  def gamma(self) -> Scalar:
    """The discount, []."""
    ...

  @property
  def lambda_(self) -> Scalar:
    """The decay of traces beside gamma, []."""
    ...

  @property
  def entropy(self) -> Scalar:
    """The weight psi of the entropy, []."""
    ...

  @property
  def max_abs_reward(self) -> float | None:
    """Limits rewards for learning; None leaves them raw."""
    ...


def clipped(reward: Array, limit: float | None) -> Array:
  """Clips rewards [...] to [-limit, limit]; leaves them as they are where the limit is None."""
  return reward if limit is None else jnp.clip(reward, -limit, limit)


def continues(first: Array, discount: Array) -> Array:
  """Says whether traces go on in a timestep, [...] bool.

  They do not where an episode starts, nor where one ended though play goes on.

  Args:
    first: [...] bool, the timestep starts an episode.
    discount: [...] float32, without gamma, of the transition into the timestep.
  """
  # Discount 0 without FIRST is a lost life of Atari: what came before is not to be credited.
  return ~first & (discount > 0)


def entropy_gradient(weight: Scalar, distribution: Distribution, policy: Array) -> Array:
  """Computes psi grad H by the parameters of a policy, [A].

  Args:
    weight: psi, [].
    distribution: of the policy.
    policy: its parameters, [A].

  Raises:
    UserError: the entropy has no closed form, and psi is not 0.
  """
  # A plain 0 asks for no entropy, which not every distribution has; that of a run may be traced.
  if isinstance(weight, float | int) and not weight:
    return jnp.zeros_like(policy)
  try:
    return weight * jax.grad(distribution.entropy)(policy)
  except UserError as error:
    raise UserError(
      "ac_lambda.entropy: the policy of these actions has no entropy in closed form: write "
      "ac_lambda.entropy = 0"
    ) from error

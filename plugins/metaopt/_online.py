"""Parts that the two forms of AC(lambda), dense and sparse, have in common."""

from typing import Protocol

import jax.numpy as jnp

from ...core.api import Array, Scalar, Tuner


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

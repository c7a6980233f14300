"""ObGD."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp

from ...core.api import Array, Metrics, Positive, Scalar, TunerInputs, register


class State(NamedTuple):
  alpha: Array  # [] as configured
  bounded: Array  # [] of the last step


@register("tuner", "obgd")
@dataclasses.dataclass(frozen=True)
class ObGD:
  """Overshooting-bounded step size (Elsayed, Vasan and Mahmood 2024): bounded anew at every step.

      alpha_t = alpha / max(1, alpha kappa max(|delta|, 1) |z|_1)

  Over one vector of all parameters; stream AC(lambda) has one for the actor and one for the critic.
  """

  kappa: Positive = 2.0

  def init(self, alpha: Scalar, params: Array) -> State:
    alpha = jnp.asarray(alpha, params.dtype)
    return State(alpha, alpha)

  def update(self, state: State, x: TunerInputs) -> tuple[State, Array]:
    size = jnp.maximum(jnp.abs(x.delta), 1) * jnp.sum(jnp.abs(x.trace))
    bounded = state.alpha / jnp.maximum(state.alpha * self.kappa * size, 1)
    return State(state.alpha, bounded), bounded

  def beta(self, state: State) -> Array:
    return jnp.log(state.bounded)

  def metrics(self, state: State) -> Metrics:
    del state
    return {}

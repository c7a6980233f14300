"""ObGD: a step size that is bounded anew at every step."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp

from ...core.api import Array, Metrics, Native, Positive, Scalar, TunerInputs, register


class State(NamedTuple):
  """The step size as configured, and as it was bounded."""

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
    """Returns the state before the first step: alpha, [], twice."""
    alpha = jnp.asarray(alpha, params.dtype)
    return State(alpha, alpha)

  def update(self, state: State, x: TunerInputs) -> tuple[State, Array]:
    """Returns the state after a step and alpha_t, [], from the trace [N]."""
    # alpha max(|delta|, 1) |z|_1 bounds the effective step size; kappa is the margin below 1.
    size = jnp.maximum(jnp.abs(x.delta), 1) * jnp.sum(jnp.abs(x.trace))
    bounded = state.alpha / jnp.maximum(state.alpha * self.kappa * size, 1)
    return State(state.alpha, bounded), bounded

  def beta(self, state: State) -> Array:
    """Returns the log of the last bounded step size, []."""
    return jnp.log(state.bounded)

  def metrics(self, state: State) -> Metrics:
    """Returns {}: beta, [], which is logged anyway, says all."""
    del state
    return {}

  def native(self) -> Native:
    """Returns the form in C++."""
    return Native(Path(__file__).with_name("_rules.h"), "ObGD", (self.kappa,))

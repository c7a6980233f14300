"""TIDBD for actor-critic: temporal-difference IDBD, a step size for each parameter."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp

from ...core.api import Array, Metrics, Native, NotNegative, Scalar, TunerInputs, register
from . import _scalar


class State(NamedTuple):
  """Log step sizes, and the memory of past updates."""

  beta: Array  # [N]
  h: Array  # [N]


@register("tuner", "tidbd")
@dataclasses.dataclass(frozen=True)
class Tidbd:
  """TIDBD with semi-gradients (Kearney et al. 2018), with grad U in place of the features.

      beta <- beta + mu delta (grad U) h
      h    <- h [1 - alpha (grad U) z]^+ + alpha (z delta + psi grad H)

  All products are elementwise. The paper predicts values only; for AC(lambda) the gradient of U
  takes the place of the gradient of V.
  """

  mu: NotNegative = 2**-10

  def init(self, alpha: Scalar, params: Array) -> State:
    """Returns the state before the first step: beta = log alpha, [N], and h = 0."""
    beta = jnp.full_like(params, _scalar.log_alpha(alpha, params))
    return State(beta, jnp.zeros_like(params))

  def update(self, state: State, x: TunerInputs) -> tuple[State, Array]:
    """Returns the state after a step and its step sizes, [N], from vectors [N]."""
    # Semi-gradient: delta's derivative is taken for -grad U, its bootstrap held fixed.
    beta = state.beta + self.mu * x.delta * x.grad_u * state.h
    alpha = jnp.exp(beta)
    keep = jnp.maximum(1 - alpha * x.grad_u * x.trace, 0)  # [.]^+: an overshoot forgets, at most
    h = state.h * keep + alpha * (x.trace * x.delta + x.bonus)
    return State(beta, h), alpha

  def beta(self, state: State) -> Array:
    """Returns the log step sizes, [N]."""
    return state.beta

  def metrics(self, state: State) -> Metrics:
    """Returns the norm of h, []."""
    return {"h_norm": jnp.linalg.norm(state.h)}

  def native(self) -> Native:
    """Returns the form in C++."""
    return Native(Path(__file__).with_name("_rules_each.h"), "Tidbd", (self.mu,))

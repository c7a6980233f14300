"""Vector Metatrace: a step size for each parameter."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp

from ...core.api import Array, Metrics, Native, NotNegative, Scalar, TunerInputs, register
from . import _scalar
from ._metatrace import Beta, ascend, effective_step, start


class State(NamedTuple):
  """Log step sizes with their memory, and the effective step size that all share."""

  own: Beta  # [N]
  h: Array  # [N]
  u: Array  # []


@register("tuner", "metatrace_vector")
@dataclasses.dataclass(frozen=True)
class MetatraceVector:
  """Vector Metatrace: a step size for each parameter (Algorithm 2).

  Attributes:
    mu: meta step size.
    normalised: divide the steps of each beta by their running maximum, and bound the effective step
      size, which all parameters share; without it lines 9 and 11 to 13 fall away.
  """

  mu: NotNegative = 0.001
  normalised: bool = True

  def init(self, alpha: Scalar, params: Array) -> State:
    """Returns the state before the first step for parameters [N] (lines 1 and 3)."""
    beta = jnp.full_like(params, _scalar.log_alpha(alpha, params))
    return State(start(beta), jnp.zeros_like(params), jnp.zeros((), params.dtype))

  def update(self, state: State, x: TunerInputs) -> tuple[State, Array]:
    """Returns the state after a step and its step sizes, [N], from vectors [N]."""
    h, u = state.h, state.u
    b = ascend(state.own, x.grad_u * h, x.bonus * h, x.delta, x.decay, self.mu, self.normalised)
    alpha = jnp.exp(b.beta)
    if self.normalised:
      u, log_m = effective_step(u, jnp.vdot(alpha, x.grad_u**2), x.decay)  # lines 11 and 12
      b = b._replace(beta=b.beta - log_m)  # line 13: one overshoot is everybody's
      alpha *= jnp.exp(-log_m)
    # Line 14, elementwise: dw_i / d beta_j is taken for 0 where i != j (Sutton 1992).
    h += alpha * (x.trace * (x.delta + x.grad_delta * h) + x.bonus)
    return State(b, h, u), alpha

  def beta(self, state: State) -> Array:
    """Returns the log step sizes, [N]."""
    return state.own.beta

  def metrics(self, state: State) -> Metrics:
    """Returns u, the largest v and the norm of h, [] each."""
    v = jnp.max(state.own.v)
    return {"u": state.u, "v": v, "h_norm": jnp.linalg.norm(state.h)}

  def native(self) -> Native:
    """Returns the form in C++."""
    settings = self.mu, self.normalised
    return Native(Path(__file__).with_name("_rules_each.h"), "MetatraceVector", settings)

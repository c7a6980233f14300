"""Mixed Metatrace: one step size for all parameters, and a correction for each."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp

from ...core.api import Array, Metrics, Native, NotNegative, Scalar, TunerInputs, register
from ._metatrace import Beta, ascend, effective_step, start


class State(NamedTuple):
  """The shared log step size and the corrections, each with an h of its own."""

  shared: Beta  # []
  own: Beta  # [N]
  shared_h: Array  # [N]
  own_h: Array  # [N]
  u: Array  # []


@register("tuner", "metatrace_mixed")
@dataclasses.dataclass(frozen=True)
class MetatraceMixed:
  """Mixed Metatrace: a step size for all, corrected for each parameter (Algorithm 3).

  alpha_i = exp(beta_hat + beta_i); beta_i starts at 0, and only beta_hat is reduced where the
  effective step size exceeds 1.

  Attributes:
    mu: meta step size.
    normalised: divide the steps of every beta by their running maximum, and bound the effective
      step size; without it lines 11, 12 and 15 to 17 fall away.
  """

  mu: NotNegative = 0.001
  normalised: bool = True

  def init(self, alpha: Scalar, params: Array) -> State:
    """Returns the state before the first step for parameters [N] (lines 1 and 3)."""
    zeros = jnp.zeros_like(params)
    shared = start(jnp.log(jnp.asarray(alpha, params.dtype)))
    return State(shared, start(zeros), zeros, zeros, jnp.zeros((), params.dtype))

  def update(self, state: State, x: TunerInputs) -> tuple[State, Array]:
    """Returns the state after a step and its step sizes, [N], from vectors [N]."""
    shared_h, own_h, u = state.shared_h, state.own_h, state.u
    settings = (x.delta, x.decay, self.mu, self.normalised)
    # Lines 7, 9, 11 and 13 are elementwise; 8, 10, 12 and 14 have dot products in their place.
    own = ascend(state.own, x.grad_u * own_h, x.bonus * own_h, *settings)
    shared = ascend(
      state.shared, jnp.vdot(x.grad_u, shared_h), jnp.vdot(x.bonus, shared_h), *settings
    )
    alpha = jnp.exp(shared.beta + own.beta)
    if self.normalised:
      u, log_m = effective_step(u, jnp.vdot(alpha, x.grad_u**2), x.decay)  # lines 15 and 16
      shared = shared._replace(beta=shared.beta - log_m)  # line 17: the corrections keep theirs
      alpha *= jnp.exp(-log_m)
    # Lines 18 and 19: h sees its own parameter's share of grad delta, h_hat that of all.
    shared_delta = x.delta + jnp.vdot(x.grad_delta, shared_h)
    own_h += alpha * (x.trace * (x.delta + x.grad_delta * own_h) + x.bonus)
    shared_h += alpha * (x.trace * shared_delta + x.bonus)
    return State(shared, own, shared_h, own_h, u), alpha

  def beta(self, state: State) -> Array:
    """Returns the log step sizes, [N]."""
    return state.shared.beta + state.own.beta

  def metrics(self, state: State) -> Metrics:
    """Returns u, the largest v, the shared v and beta, and the norms of both h, [] each."""
    return {
      "u": state.u,
      "v": jnp.max(state.own.v),
      "v_shared": state.shared.v,
      "beta_shared": state.shared.beta,
      "h_norm": jnp.linalg.norm(state.own_h),
      "h_shared_norm": jnp.linalg.norm(state.shared_h),
    }

  def native(self) -> Native:
    """Returns the form in C++."""
    settings = self.mu, self.normalised
    return Native(Path(__file__).with_name("_rules_each.h"), "MetatraceMixed", settings)

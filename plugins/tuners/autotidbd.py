"""AutoTIDBD for actor-critic: TIDBD whose meta step size is normalised."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp

from ...core.api import Array, Metrics, Native, NotNegative, Positive, Scalar, TunerInputs, register
from . import _scalar


class State(NamedTuple):
  """Log step sizes, what normalises their steps, and the memory of past updates."""

  beta: Array  # [N]
  v: Array  # [N] running maximum of the steps of beta
  h: Array  # [N]


@register("tuner", "autotidbd")
@dataclasses.dataclass(frozen=True)
class AutoTidbd:
  """AutoTIDBD (Kearney et al. 2019, Algorithm 6), with D = gamma grad V(S') - grad U(S).

      v    <- max(|delta D h|, v - (1/tau) alpha D z' (|delta (grad U) h| - v))
      beta <- beta - mu delta D h / (v if v > 0 else 1)
      beta <- beta - log max(-<alpha D | z'>, 1)
      h    <- h [1 + alpha D z]^+ + alpha (z delta + psi grad H)

  Products are elementwise; z' is the trace before this step. For values D is the paper's
  gamma phi' - phi; for the policy it is -1/2 grad log pi, so that its step sizes are tuned, too.

  Attributes:
    mu: meta step size.
    tau: steps over which v forgets, in units of the step size.
  """

  mu: NotNegative = 1e-2
  tau: Positive = 1e4

  def init(self, alpha: Scalar, params: Array) -> State:
    """Returns the state before the first step: beta = log alpha, [N], all else 0."""
    beta = jnp.full_like(params, _scalar.log_alpha(alpha, params))
    return State(beta, jnp.zeros_like(params), jnp.zeros_like(params))

  def update(self, state: State, x: TunerInputs) -> tuple[State, Array]:
    """Returns the state after a step and its step sizes, [N], from vectors [N]."""
    d = x.grad_next - x.grad_u
    step = x.delta * d * state.h
    alpha = jnp.exp(state.beta)  # of the step before: v forgets by what was in force until now
    forget = alpha * d * x.trace_tm1 * (jnp.abs(x.delta * x.grad_u * state.h) - state.v)
    v = jnp.maximum(jnp.abs(step), state.v - forget / self.tau)
    beta = state.beta - self.mu * step / jnp.where(v > 0, v, 1)
    # -<alpha D | z'> is the effective step size: above 1 the update would overshoot its target.
    beta -= jnp.log(jnp.maximum(-jnp.vdot(jnp.exp(beta) * d, x.trace_tm1), 1))
    alpha = jnp.exp(beta)
    keep = jnp.maximum(1 + alpha * d * x.trace, 0)  # [.]^+: h may not change its sign by decay
    h = state.h * keep + alpha * (x.trace * x.delta + x.bonus)
    return State(beta, v, h), alpha

  def beta(self, state: State) -> Array:
    """Returns the log step sizes, [N]."""
    return state.beta

  def metrics(self, state: State) -> Metrics:
    """Returns the largest normaliser and the norm of h, [] each."""
    return {"v": jnp.max(state.v), "h_norm": jnp.linalg.norm(state.h)}

  def native(self) -> Native:
    """Returns the form in C++."""
    return Native(Path(__file__).with_name("_rules_each.h"), "AutoTidbd", (self.mu, self.tau))

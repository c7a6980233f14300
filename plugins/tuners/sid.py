"""SID for actor-critic: stochastic meta-descent on the log step size."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp

from ...core.api import Array, Dots, Metrics, Native, NotNegative, Scalar, register
from . import _scalar


@register("tuner", "sid")
@dataclasses.dataclass(frozen=True)
class Sid(_scalar.OneStepSize):
  """SID (Dabney 2014, section 4.3), for AC(lambda) in place of SARSA(lambda).

      beta <- beta + mu (delta <z | h> + psi <grad H | h>)

  Metatrace traces <grad U_k | h_k>; SID multiplies the trace of today by the h of today.
  """

  mu: NotNegative = 2**-16

  def init_rule(self, alpha: Scalar, like: Array) -> Array:
    """Returns beta = log alpha, []."""
    return _scalar.log_alpha(alpha, like)

  def adapt(self, rule: Array, x: Dots) -> tuple[Array, Array]:
    """Returns beta after a step, and alpha, [] each."""
    # mu multiplies delta, whose scale is the rewards': a useful mu depends on the problem.
    beta = rule + self.mu * (x.delta * x.trace_h + x.bonus_h)
    return beta, jnp.exp(beta)

  def beta(self, state: _scalar.State) -> Array:
    """Returns the log step size, []."""
    return state.rule

  def metrics(self, state: _scalar.State) -> Metrics:
    """Returns the norm of h, []."""
    return {"h_norm": jnp.linalg.norm(state.h)}

  def native(self) -> Native:
    """Returns the form in C++."""
    return Native(Path(__file__).with_name("_rules.h"), "Sid", (self.mu,))

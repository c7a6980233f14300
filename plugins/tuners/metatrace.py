"""Scalar Metatrace: one step size for all parameters."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp

from ...core.api import Array, Dots, Metrics, Native, NotNegative, Scalar, register
from . import _scalar
from ._metatrace import Beta, ascend, effective_step, start


class Rule(NamedTuple):
  """The scalars that scalar Metatrace adapts."""

  shared: Beta  # [] each
  u: Array  # [] effective step size


@register("tuner", "metatrace")
@dataclasses.dataclass(frozen=True)
class Metatrace(_scalar.OneStepSize):
  """Scalar Metatrace: one step size for all parameters (Algorithm 1).

  Attributes:
    mu: meta step size.
    normalised: divide the steps of beta by their running maximum, and bound the effective step
      size; useful mu are then larger by orders of magnitude. Without it lines 9 and 11 to 13 fall
      away.
  """

  mu: NotNegative = 0.001
  normalised: bool = True

  def init_rule(self, alpha: Scalar, like: Array) -> Rule:
    """Returns the scalars before the first step, [] each (lines 1 and 3)."""
    beta = _scalar.log_alpha(alpha, like)
    return Rule(start(beta), jnp.zeros_like(beta))

  def adapt(self, rule: Rule, x: Dots) -> tuple[Rule, Array]:
    """Returns the scalars after lines 7 to 13, and alpha of line 15, [] each."""
    b = ascend(rule.shared, x.u_h, x.bonus_h, x.delta, x.decay, self.mu, self.normalised)
    u = rule.u
    if self.normalised:
      u, log_m = effective_step(u, jnp.exp(b.beta) * x.u_u, x.decay)  # lines 11 and 12
      b = b._replace(beta=b.beta - log_m)  # line 13: for good, not for this step alone
    return Rule(b, u), jnp.exp(b.beta)

  def beta(self, state: _scalar.State) -> Array:
    """Returns the log step size, []."""
    return state.rule.shared.beta

  def metrics(self, state: _scalar.State) -> Metrics:
    """Returns u, v and the norm of h, [] each."""
    rule = state.rule
    return {"u": rule.u, "v": rule.shared.v, "h_norm": jnp.linalg.norm(state.h)}

  def native(self) -> Native:
    """Returns the form in C++."""
    return Native(Path(__file__).with_name("_rules.h"), "Metatrace", (self.mu, self.normalised))

"""Scalar Metatrace."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp

from ...core.api import Array, Dots, Metrics, NotNegative, Scalar, register
from . import _scalar
from ._metatrace import Beta, ascend, effective_step, start


class Rule(NamedTuple):
  shared: Beta
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
    beta = _scalar.log(alpha, like)
    return Rule(start(beta), jnp.zeros_like(beta))

  def adapt(self, rule: Rule, x: Dots) -> tuple[Rule, Array]:
    b = ascend(rule.shared, x.u_h, x.bonus_h, x.delta, x.decay, self.mu, self.normalised)
    u = rule.u
    if self.normalised:
      u, log_m = effective_step(u, jnp.exp(b.beta) * x.u_u, x.decay)
      b = b._replace(beta=b.beta - log_m)
    return Rule(b, u), jnp.exp(b.beta)

  def beta(self, state: _scalar.State) -> Array:
    return state.rule.shared.beta

  def metrics(self, state: _scalar.State) -> Metrics:
    rule = state.rule
    return {"u": rule.u, "v": rule.shared.v, "h_norm": jnp.linalg.norm(state.h)}

"""NOSID for actor-critic: SID, normalised by a hard maximum."""

import dataclasses
from pathlib import Path
from typing import Literal, NamedTuple

import jax.numpy as jnp

from ...core.api import Array, Dots, Metrics, Native, NotNegative, Scalar, register
from . import _scalar


class Rule(NamedTuple):
  """The scalars that NOSID adapts."""

  beta: Array  # []
  largest: Array  # [] the hard maximum that the steps of beta are divided by


@register("tuner", "nosid")
@dataclasses.dataclass(frozen=True)
class Nosid(_scalar.OneStepSize):
  """NOSID (Dabney 2014), for AC(lambda): SID with a hard maximum, and AlphaBound.

      largest <- max(largest, |delta|)
      beta    <- beta + mu (delta <z | h> + psi <grad H | h>) / largest
      alpha   <- min(alpha, 1 / |<z | grad delta>|)                        (Dabney and Barto 2012)

  The Metatrace paper tells NOSID's normalisation by a "hard maximum" and its useful mu, but not its
  equations; dividing by the largest |delta| is the reading that agrees with what it reports.

  Attributes:
    mu: meta step size.
    normaliser: what the maximum is of: `delta`, or the whole `step` of beta.
  """

  mu: NotNegative = 2**-12
  normaliser: Literal["delta", "step"] = "delta"

  def init_rule(self, alpha: Scalar, like: Array) -> Rule:
    """Returns the scalars before the first step, [] each."""
    beta = _scalar.log_alpha(alpha, like)
    return Rule(beta, jnp.zeros_like(beta))

  def adapt(self, rule: Rule, x: Dots) -> tuple[Rule, Array]:
    """Returns the scalars after a step, and alpha, [] each."""
    step = x.delta * x.trace_h + x.bonus_h
    size = jnp.abs(x.delta if self.normaliser == "delta" else step)
    largest = jnp.maximum(rule.largest, size)  # never forgets, unlike Metatrace's v
    beta = rule.beta + self.mu * step / jnp.where(largest > 0, largest, 1)
    # AlphaBound: w + alpha z delta moves delta by alpha delta <z | grad delta>; alpha above
    # 1 / |<z | grad delta>| would carry it past 0. Where they are orthogonal nothing binds.
    overlap = jnp.abs(x.trace_delta)
    beta = jnp.where(overlap > 0, jnp.minimum(beta, -jnp.log(overlap)), beta)
    return Rule(beta, largest), jnp.exp(beta)

  def beta(self, state: _scalar.State) -> Array:
    """Returns the log step size, []."""
    return state.rule.beta

  def metrics(self, state: _scalar.State) -> Metrics:
    """Returns the hard maximum and the norm of h, [] each."""
    return {"v": state.rule.largest, "h_norm": jnp.linalg.norm(state.h)}

  def native(self) -> Native:
    """Returns the form in C++."""
    settings = self.mu, self.normaliser == "delta"
    return Native(Path(__file__).with_name("_rules.h"), "Nosid", settings)

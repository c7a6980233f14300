"""Importance sampling without truncation."""

import dataclasses

import jax.numpy as jnp

from ...core.api import UNIT, CorrectorInputs, Fraction, Metrics, Targets, register, tunable
from ._targets import corrected_targets


@register("corrector", "importance_sampling")
@dataclasses.dataclass(frozen=True)
class ImportanceSampling:
  """Plain importance sampling, rho_t = c_t = IS_t: unbiased, of high variance."""

  gamma: Fraction = tunable(0.99, UNIT, "γ")
  lambda_: Fraction = tunable(1.0, UNIT, "λ")

  def __call__(self, x: CorrectorInputs) -> tuple[Targets, Metrics]:
    """Computes Targets [T, B] from one head's inputs, [T, B]; it has no metrics."""
    ratio = jnp.exp(x.log_is)  # finite: core has capped log_is
    return corrected_targets(x, self.gamma, self.lambda_, ratio, ratio), {}

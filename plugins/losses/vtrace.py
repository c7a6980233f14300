"""V-trace (Espeholt et al. 2018; Eq. 2 of the STAC paper)."""

import dataclasses

import jax.numpy as jnp

from ...core.api import (
  POSITIVE,
  UNIT,
  CorrectorInputs,
  Fraction,
  Metrics,
  Positive,
  Targets,
  register,
  tunable,
)
from ._targets import clipped_by, corrected_targets


@register("corrector", "vtrace")
@dataclasses.dataclass(frozen=True)
class VTrace:
  """V-trace: truncated importance sampling, rho_t = min(rho_bar, IS_t), c_t = min(c_bar, IS_t)."""

  gamma: Fraction = tunable(0.99, UNIT, "γ")
  lambda_: Fraction = tunable(1.0, UNIT, "λ")
  rho_bar: Positive = tunable(1.0, POSITIVE, "ρ̄")
  c_bar: Positive = tunable(1.0, POSITIVE, "c̄")

  def __call__(self, x: CorrectorInputs) -> tuple[Targets, Metrics]:
    """Computes Targets [T, B] from one head's inputs, [T, B], and where rho was clipped, [T, B]."""
    ratio = jnp.exp(x.log_is)
    # rho_bar decides which policy's value is learned, c_bar only how fast (IMPALA, section 4.1).
    rho, c = jnp.minimum(self.rho_bar, ratio), jnp.minimum(self.c_bar, ratio)
    clipped = clipped_by(ratio, self.rho_bar)
    targets = corrected_targets(x, self.gamma, self.lambda_, rho, c)
    return targets, {"is_ratio/clip_fraction": clipped}

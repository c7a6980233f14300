"""Leaky V-trace (Eq. 5 of the STAC paper)."""

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


@register("corrector", "leaky_vtrace")
@dataclasses.dataclass(frozen=True)
class LeakyVTrace:
  """Leaky V-trace: mixes truncated and plain importance-sampling ratios (STAC, Eq. 5).

      rho_t = (1 - alpha_rho) IS_t + alpha_rho min(rho_bar, IS_t),  c_t with alpha_c and c_bar

  `alpha` ties both: it multiplies alpha_rho and alpha_c, which stay 1 unless tuned apart; likewise
  `truncation` multiplies rho_bar and c_bar. alpha = 1 is V-trace, alpha = 0 importance sampling.
  A contraction if alpha_rho <= alpha_c and rho_bar >= c_bar: then rho_t >= c_t, which the proof of
  Theorem 1 needs. (As printed, with alpha_rho >= alpha_c, it has counterexamples.)
  """

  gamma: Fraction = tunable(0.99, UNIT, "γ")
  lambda_: Fraction = tunable(1.0, UNIT, "λ")
  alpha: Fraction = tunable(1.0, UNIT, "α")
  alpha_rho: Fraction = tunable(1.0, UNIT, "α_ρ")
  alpha_c: Fraction = tunable(1.0, UNIT, "α_c")
  truncation: Positive = tunable(1.0, POSITIVE, "ρ̄ = c̄")
  rho_bar: Positive = tunable(1.0, POSITIVE, "ρ̄")
  c_bar: Positive = tunable(1.0, POSITIVE, "c̄")

  def __call__(self, x: CorrectorInputs) -> tuple[Targets, Metrics]:
    """Computes Targets [T, B] from one head's inputs, [T, B], and where rho was clipped, [T, B]."""
    ratio = jnp.exp(x.log_is)
    # Products, so that one tunable moves both (STACX) and two move them apart (Figure 5b).
    rho_bar, c_bar = self.truncation * self.rho_bar, self.truncation * self.c_bar
    alpha_rho, alpha_c = self.alpha * self.alpha_rho, self.alpha * self.alpha_c
    # Eq. 5: what exceeds the bound leaks through in part, for less bias and more variance.
    # The derivative by alpha is minus what is clipped off: where no ratio exceeds its bound, as on
    # policy, alpha has no metagradient.
    rho = (1 - alpha_rho) * ratio + alpha_rho * jnp.minimum(rho_bar, ratio)
    c = (1 - alpha_c) * ratio + alpha_c * jnp.minimum(c_bar, ratio)
    clipped = clipped_by(ratio, rho_bar)
    targets = corrected_targets(x, self.gamma, self.lambda_, rho, c)
    return targets, {"is_ratio/clip_fraction": clipped}

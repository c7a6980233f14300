"""The on-policy lambda-return."""

import dataclasses

import jax.numpy as jnp

from ...core.api import UNIT, CorrectorInputs, Fraction, Metrics, Targets, register, tunable
from ._targets import corrected_targets


@register("corrector", "lambda_return")
@dataclasses.dataclass(frozen=True)
class LambdaReturn:
  """On-policy lambda-return: no correction, rho_t = c_t = 1."""

  gamma: Fraction = tunable(0.99, UNIT, "γ")
  lambda_: Fraction = tunable(1.0, UNIT, "λ")

  def __call__(self, x: CorrectorInputs) -> tuple[Targets, Metrics]:
    """Computes Targets [T, B] from one head's inputs, [T, B]; it has no metrics."""
    one = jnp.ones_like(x.log_is)
    return corrected_targets(x, self.gamma, self.lambda_, one, one), {}

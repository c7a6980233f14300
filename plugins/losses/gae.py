"""Generalised advantage estimation."""

import dataclasses

from ...core.api import UNIT, CorrectorInputs, Fraction, Metrics, Targets, register, tunable
from .lambda_return import LambdaReturn


@register("corrector", "gae")
@dataclasses.dataclass(frozen=True)
class Gae:
  """Generalised advantage estimation, on-policy (Schulman et al. 2016): adv_t = v_t - V(x_t).

  v_t is the lambda-return. The advantage of the other correctors, r_{t+1} + gamma v_{t+1} - V(x_t),
  does not weigh what follows by lambda once more.
  """

  gamma: Fraction = tunable(0.99, UNIT, "γ")
  lambda_: Fraction = tunable(0.95, UNIT, "λ")

  def __call__(self, x: CorrectorInputs) -> tuple[Targets, Metrics]:
    """Computes Targets [T, B] from one head's inputs, [T, B]; it has no metrics."""
    # The sum of (gamma lambda)^k delta_{t+k} telescopes to the lambda-return less V(x_t).
    targets, _ = LambdaReturn(self.gamma, self.lambda_)(x)
    return targets._replace(advantage=targets.value - x.value[:-1]), {}

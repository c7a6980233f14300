"""The value loss."""

import dataclasses

from ...core.api import SCALE, Array, LossInputs, Metrics, NotNegative, register, tunable


@register("loss", "value")
@dataclasses.dataclass(frozen=True)
class Value:
  """Squared value error, g_v (v_t - V(x_t))^2, without a factor 1/2 (STAC, Alg. 1, line 17)."""

  cost: NotNegative = tunable(0.25, SCALE, "g_v")

  def __call__(self, x: LossInputs) -> tuple[Array, Metrics]:
    """Computes g_v (v_t - V(x_t))^2, [T, B], from values [T, B]; it has no metrics."""
    # No factor 1/2: the paper's g_v = 0.25 holds it. v_t is not stopped here, see PolicyGradient.
    return self.cost * (x.targets.value - x.value) ** 2, {}

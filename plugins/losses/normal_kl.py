"""The penalty that keeps a Gaussian policy wide."""

import dataclasses

from ...core.api import SCALE, Array, LossInputs, Metrics, NotNegative, register, tunable


@register("loss", "normal_kl")
@dataclasses.dataclass(frozen=True)
class NormalKL:
  """KL to the standard normal, g_e KL(N(mean, std) || N(0, 1)), before the squashing.

  Stands in for the entropy bonus where actions are continuous (STAC, section 4.2).
  """

  cost: NotNegative = tunable(0.01, SCALE, "g_e")

  def __call__(self, x: LossInputs) -> tuple[Array, Metrics]:
    """Computes g_e KL and the KL in nats, [T, B] each, from policies [T, B, A].

    Raises:
      UserError: actions are discrete, so there is no normal to compare with.
    """
    kl = x.distribution.normal_kl(x.policy)
    return self.cost * kl, {"normal_kl": kl}

"""The entropy bonus."""

import dataclasses

from ...core.api import SCALE, Array, LossInputs, Metrics, NotNegative, register, tunable


@register("loss", "entropy")
@dataclasses.dataclass(frozen=True)
class Entropy:
  """Entropy bonus, -g_e H(pi(.|x_t)).

  Line 18 of Algorithm 1 (STAC), as printed, would penalise entropy; this is IMPALA's sign.
  """

  cost: NotNegative = tunable(0.01, SCALE, "g_e")

  def __call__(self, x: LossInputs) -> tuple[Array, Metrics]:
    """Computes -g_e H and the entropy in nats, [T, B] each, from policies [T, B, A].

    Raises:
      UserError: the policy's entropy has no closed form (a squashed Gaussian's).
    """
    entropy = x.distribution.entropy(x.policy)
    return -self.cost * entropy, {"entropy": entropy}

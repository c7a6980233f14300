"""The KL penalty that keeps a policy near a reference."""

import dataclasses

from ...core.api import SCALE, Array, LossInputs, Metrics, NotNegative, register, tunable


@register("loss", "policy_kl")
@dataclasses.dataclass(frozen=True)
class PolicyKL:
  """KL penalty, g_kl KL(pi(.|x_t) || reference(.|x_t)) (STAC, Eq. 3).

  In the outer loss the reference is the policy before the update; in an inner loss it is the
  behaviour policy.
  """

  cost: NotNegative = tunable(1.0, SCALE, "g_kl")

  def __call__(self, x: LossInputs) -> tuple[Array, Metrics]:
    """Computes g_kl KL and the KL in nats, [T, B] each, from policies [T, B, A]."""
    # No gradient goes to the reference: the actor recorded it, or it was made before the update.
    kl = x.distribution.kl(x.policy, x.reference)
    return self.cost * kl, {"kl": kl}

"""The policy-gradient loss."""

import dataclasses

from ...core.api import SCALE, Array, LossInputs, Metrics, NotNegative, register, tunable


@register("loss", "policy_gradient")
@dataclasses.dataclass(frozen=True)
class PolicyGradient:
  """Policy gradient, -g_p log pi(a_t|x_t) adv_t (STAC, Algorithm 1, line 20)."""

  cost: NotNegative = tunable(1.0, SCALE, "g_p")

  def __call__(self, x: LossInputs) -> tuple[Array, Metrics]:
    """Computes -g_p log pi(a_t|x_t) adv_t, [T, B], from policies [T, B, A]; it has no metrics."""
    # The advantage is not stopped here: its derivative by gamma, lambda and alpha is the
    # metagradient's way to them. By theta it has none, as core has stopped values and ratios.
    return -self.cost * x.distribution.log_prob(x.policy, x.action) * x.targets.advantage, {}

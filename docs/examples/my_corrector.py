"""Targets one step ahead, without any correction."""

import dataclasses

from selftune import UNIT, CorrectorInputs, Fraction, Metrics, Targets, register, tunable


@register("corrector", "one_step")
@dataclasses.dataclass(frozen=True)
class OneStep:
  """TD(0): v_t = r_{t+1} + gamma d_{t+1} V(x_{t+1}), and the advantage is v_t - V(x_t)."""

  gamma: Fraction = tunable(0.99, UNIT, "γ")

  def __call__(self, x: CorrectorInputs) -> tuple[Targets, Metrics]:
    target = x.reward + self.gamma * x.discount * x.value[1:]  # [T, B]
    advantage = target - x.value[:-1]
    return Targets(target, advantage), {"advantage": advantage}

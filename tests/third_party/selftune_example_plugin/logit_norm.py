"""A regulariser that keeps the policy's parameters small, so that it never saturates."""

import dataclasses

import jax.numpy as jnp

from selftune import SCALE, Array, LossInputs, Metrics, NotNegative, register, tunable


@register("loss", "logit_norm")
@dataclasses.dataclass(frozen=True)
class LogitNorm:
  """Mean square of the policy's distribution parameters, g 1/A sum_a y_a(x_t)^2."""

  cost: NotNegative = tunable(0.01, SCALE)

  def __call__(self, x: LossInputs) -> tuple[Array, Metrics]:
    norm = jnp.mean(x.policy**2, axis=-1)  # [T, B]
    return self.cost * norm, {"logit_norm": norm}

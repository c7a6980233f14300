"""The on-policy lambda-return, which is RLax's."""

import dataclasses

import jax
import jax.numpy as jnp

from ...core.api import UNIT, CorrectorInputs, Fraction, Metrics, Targets, register, tunable


@register("corrector", "lambda_return")
@dataclasses.dataclass(frozen=True)
class LambdaReturn:
  """On-policy lambda-return: no correction, rho_t = c_t = 1.

      v_t = r_{t+1} + gamma d_{t+1} ((1 - lambda) V(x_{t+1}) + lambda v_{t+1}),  v_T = V(x_T)

  and v_t = V(x_t) at a reset step.
  """

  gamma: Fraction = tunable(0.99, UNIT, "γ")
  lambda_: Fraction = tunable(1.0, UNIT, "λ")

  def __call__(self, x: CorrectorInputs) -> tuple[Targets, Metrics]:
    """Computes Targets [T, B] from one head's inputs, [T, B]; it has no metrics."""
    import rlax  # here, for it takes more than a second and no other plugin needs it

    value_tm1, value_t = x.value[:-1], x.value[1:]
    discount = self.gamma * x.discount
    # A reset step is given the reward V(x_t) and no future: the step before, which led to x_t,
    # bootstraps from that. RLax has no mask.
    valid = x.mask > 0
    steps = (jnp.where(valid, x.reward, value_tm1), jnp.where(valid, discount, 0), value_t)
    # RLax asserts that lambda is a float, which a configured 1 need not be.
    lambda_ = jnp.asarray(self.lambda_, x.value.dtype)
    sequences = [step.reshape(len(step), -1) for step in steps]  # [T, N] of [T, ...]
    # RLax takes a single sequence [T], so it is mapped over axis 1, of arguments and result.
    one = lambda reward, discount, value: rlax.lambda_returns(reward, discount, value, lambda_)
    target = jnp.reshape(jax.vmap(one, 1, 1)(*sequences), x.reward.shape)
    # The advantage bootstraps from the lambda-return: Algorithm 1 of STAC, line 20, with rho = 1.
    target_t = jnp.concatenate([target[1:], x.value[-1:]])
    return Targets(target, x.reward + discount * target_t - value_tm1), {}

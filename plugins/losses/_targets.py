"""The recursion of the off-policy correctors.

It is not RLax's: that fixes c_bar = 1, and its mask carries the trace over masked steps.
"""

import jax
import jax.numpy as jnp

from ...core.api import Array, CorrectorInputs, Scalar, Targets

MAX_TRACE = 1e6  # bound on a product of trace coefficients; those on policy are below 1


def corrected_targets(
  x: CorrectorInputs, gamma: Scalar, lambda_: Scalar, rho: Array, c: Array
) -> Targets:
  """Computes targets from weighted TD errors (STAC, Algorithm 1, lines 7 to 14 and 20).

      delta_t = rho_t (r_{t+1} + gamma d_{t+1} V(x_{t+1}) - V(x_t))
      e_t     = m_{t+1} (delta_t + gamma d_{t+1} lambda c_t e_{t+1}),  e_T = 0
      v_t     = V(x_t) + e_t,  v_T = V(x_T)
      adv_t   = rho_t (r_{t+1} + gamma d_{t+1} v_{t+1} - V(x_t))

  Ratios are capped one by one, but a product of forty is infinite in float32 if they are 81 each.
  So where a product of consecutive coefficients gamma d lambda c would exceed `MAX_TRACE`, its
  first factor is less, by that much; any other is what it was, to the bit.

  Args:
    x: one head's inputs, [T, B] and values [T+1, B].
    gamma: discount, [].
    lambda_: trace decay, [].
    rho: weights of the TD errors, [T, B].
    c: trace coefficients without lambda, [T, B].

  Returns:
    Targets [T, B]; the derivative flows through gamma, lambda_, rho and c.
  """
  # Reward and discount of x are those of t + 1 already, so index t of each array is one transition.
  discount = gamma * x.discount
  value_tm1, value_t = x.value[:-1], x.value[1:]
  delta = rho * (x.reward + discount * value_t - value_tm1)  # Algorithm 1, line 7

  def backward(carry, inputs):
    error, greatest = carry  # of the products that begin at t + 1, the empty one too
    delta, trace, mask = inputs
    # min(), not a rescaled product: a trace below the bound keeps its bits and its derivative.
    trace = jnp.minimum(trace, MAX_TRACE / greatest)
    # The mask is outside the sum: an auto-reset step neither has an error nor passes one on.
    error = mask * (delta + trace * error)  # line 11
    return (error, jnp.maximum(mask * trace * greatest, 1)), error

  none = jnp.zeros_like(delta[0])
  traces = discount * lambda_ * c
  _, errors = jax.lax.scan(backward, (none, none + 1), (delta, traces, x.mask), reverse=True)
  target = value_tm1 + errors
  target_t = jnp.concatenate([target[1:], x.value[-1:]])  # e_T = 0, so v_T = V(x_T)
  # Line 20 bootstraps from v_{t+1} itself; RLax's leaky V-trace mixes lambda into it.
  return Targets(target, rho * (x.reward + discount * target_t - value_tm1))


def clipped_by(ratio: Array, limit: Scalar) -> Array:
  """Says which importance ratios a limit clips, for a metric.

  Args:
    ratio: importance ratios, [T, B].
    limit: rho_bar, [].

  Returns:
    [T, B]: 1 where the ratio exceeds the limit, else 0.
  """
  # On policy the ratio is 1 up to rounding, and rho_bar is 1: that must not count as clipped.
  return (ratio > limit * (1 + 1e-5)).astype(ratio.dtype)

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
  """Value targets and advantages from weighted TD errors (Algorithm 1, lines 7-14 and 20, STAC).

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
  discount = gamma * x.discount
  value_tm1, value_t = x.value[:-1], x.value[1:]
  delta = rho * (x.reward + discount * value_t - value_tm1)

  def backward(carry, inputs):
    error, greatest = carry  # of the products that begin at t + 1, the empty one too
    delta, trace, mask = inputs
    trace = jnp.minimum(trace, MAX_TRACE / greatest)
    error = mask * (delta + trace * error)
    return (error, jnp.maximum(mask * trace * greatest, 1)), error

  none = jnp.zeros_like(delta[0])
  traces = discount * lambda_ * c
  _, errors = jax.lax.scan(backward, (none, none + 1), (delta, traces, x.mask), reverse=True)
  target = value_tm1 + errors
  target_t = jnp.concatenate([target[1:], x.value[-1:]])
  return Targets(target, rho * (x.reward + discount * target_t - value_tm1))


def clipped_by(ratio: Array, limit: Scalar) -> Array:
  """1 where a ratio exceeds the limit by more than rounding, as on policy it may not; else 0."""
  return (ratio > limit * (1 + 1e-5)).astype(ratio.dtype)

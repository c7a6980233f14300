"""The lines that the three Metatrace algorithms share (Young, Wang and Taylor 2018).

Products with h are taken by the caller: dot products where one step size serves all parameters,
elementwise ones where each has its own; the lines are then the same.
"""

from typing import NamedTuple

import jax.numpy as jnp

from ...core.api import Array, Scalar


class Beta(NamedTuple):
  """Log step sizes, [] or [N], and what their ascent remembers."""

  beta: Array
  trace: Array  # z_beta, of grad U times h
  v: Array  # running maximum of |D|


def start(beta: Array) -> Beta:
  """Returns the state before the first step, for initial log step sizes [] or [N]."""
  return Beta(beta, jnp.zeros_like(beta), jnp.zeros_like(beta))


def ascend(
  b: Beta, u_h: Array, bonus_h: Array, delta: Array, decay: Array, mu: Scalar, normalised: bool
) -> Beta:
  """Ascends the log step sizes (lines 7 to 10 of Algorithms 1 and 2, 7 to 14 of Algorithm 3):

      z_beta <- gamma lambda z_beta + grad U h,    D <- z_beta delta + psi grad H h
      v <- max(|D|, v + mu (|D| - v)),             beta <- beta + mu D / (v if v > 0 else 1)

  and beta <- beta + mu D where nothing is normalised.

  Args:
    b: the state; its arrays are [], or [N] where each parameter has a step size.
    u_h: grad U times h, [] or [N] like those.
    bonus_h: psi grad H times h, the same.
    delta: TD error, [].
    decay: gamma lambda, [].
    mu: meta step size, [].
    normalised: divide D by v.

  Returns:
    The state after the step, beta not yet reduced by the effective step size.
  """
  trace = decay * b.trace + u_h  # line 7; a decay of 0 makes z_beta <- 0 of line 3
  d = trace * delta + bonus_h  # line 8: d J / d beta, with dw / d beta = h
  if not normalised:
    return Beta(b.beta + mu * d, trace, b.v)
  size = jnp.abs(d)
  # Line 9. The maximum is over what was just seen too, so no step of beta is longer than mu.
  v = jnp.maximum(size, b.v + mu * (size - b.v))
  return Beta(b.beta + mu * d / jnp.where(v > 0, v, 1), trace, v)  # line 10


def effective_step(u: Array, now: Array, decay: Array) -> tuple[Array, Array]:
  """Tracks the largest effective step size of states in the trace (lines 11 and 12).

      u <- max(now, u + (1 - gamma lambda) (now - u)),    M <- max(u, 1)

  Args:
    u: the last one, [].
    now: sum_i alpha_i (grad U)_i^2, [].
    decay: gamma lambda, [].

  Returns:
    u [], and log M [], which beta is to be reduced by (line 13).
  """
  # Where an episode starts the decay is 0, so u becomes `now`: line 3, u <- 0, needs no case.
  u = jnp.maximum(now, u + (1 - decay) * (now - u))
  return u, jnp.log(jnp.maximum(u, 1))

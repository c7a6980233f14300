"""What the tuners of one step size for all parameters share: h, and dot products with it."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from ...core.api import Array, Dots, PyTree, Scalar, TunerInputs


class State(NamedTuple):
  """The tuner's own scalars, and h ~ dw / d beta."""

  rule: PyTree
  h: PyTree  # [N]; () where nothing depends on it


class OneStepSize:
  """`init` and `update` of a `ScalarTuner`; a tuner that inherits them has its own of the rest."""

  init_rule: Callable[[Scalar, Array], PyTree]
  adapt: Callable[[PyTree, Dots], tuple[PyTree, Array]]

  def init(self, alpha: Scalar, params: Array) -> State:
    return State(self.init_rule(alpha, params), jnp.zeros_like(params))

  def update(self, state: State, x: TunerInputs) -> tuple[State, Array]:
    """Adapts alpha, then h with the new alpha (Algorithm 1 of Metatrace, line 14):

    h <- h + alpha (z (delta + <grad delta | h>) + psi grad H)
    """
    h = state.h
    dots = Dots(
      delta=x.delta,
      decay=x.decay,
      u_h=jnp.vdot(x.grad_u, h),
      bonus_h=jnp.vdot(x.bonus, h),
      trace_h=jnp.vdot(x.trace, h),
      trace_delta=jnp.vdot(x.trace, x.grad_delta),
      u_u=jnp.vdot(x.grad_u, x.grad_u),
    )
    rule, alpha = self.adapt(state.rule, dots)
    h += alpha * (x.trace * (x.delta + jnp.vdot(x.grad_delta, h)) + x.bonus)
    return State(rule, h), alpha


def log(alpha: Scalar, like: Array) -> Array:
  """beta_0 = log alpha, [], in the dtype of the parameters."""
  return jnp.log(jnp.asarray(alpha, like.dtype))

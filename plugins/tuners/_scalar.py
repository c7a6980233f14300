"""The part that all tuners of one step size share: h, and the dot products with it."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from ...core.api import Array, Dots, PyTree, Scalar, TunerInputs


class State(NamedTuple):
  """The state of such a tuner: scalars of its own, and h, which follows dw / d beta."""

  rule: PyTree
  h: PyTree  # [N]; () where nothing depends on it


class OneStepSize:
  """A base with `init` and `update` of a `ScalarTuner`; tuners that inherit it add the rest."""

  # Not abstract methods: a tuner declares its own, and type checkers compare them with these.
  init_rule: Callable[[Scalar, Array], PyTree]
  adapt: Callable[[PyTree, Dots], tuple[PyTree, Array]]

  def init(self, alpha: Scalar, params: Array) -> State:
    """Returns the state before the first step for parameters [N]: h = 0 (line 1)."""
    return State(self.init_rule(alpha, params), jnp.zeros_like(params))

  def update(self, state: State, x: TunerInputs) -> tuple[State, Array]:
    """Adapts alpha, then h with the new alpha (Algorithm 1 of Metatrace, line 14):

    h <- h + alpha (z (delta + <grad delta | h>) + psi grad H)

    Args:
      state: of the step before; its h is [N].
      x: the step, vectors [N].

    Returns:
      The new state, and alpha [].
    """
    # The rule sees the h of the step before (lines 7 and 8); line 14 alone changes it.
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


def log_alpha(alpha: Scalar, like: Array) -> Array:
  """Returns beta_0 = log alpha, [], in the dtype of the parameters [N] in `like`."""
  return jnp.log(jnp.asarray(alpha, like.dtype))

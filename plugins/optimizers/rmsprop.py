"""RMSProp, as IMPALA uses it."""

import dataclasses

import optax

from ...core.api import SCALE, Array, Fraction, NotNegative, Positive, PyTree, register, tunable


@register("optimizer", "rmsprop")
@dataclasses.dataclass(frozen=True)
class RMSProp:
  """RMSProp with epsilon inside the root and a linearly decayed learning rate (STAC, Table 3).

      nu    <- decay nu + (1 - decay) g^2,  nu_0 = 0
      theta <- theta - lr g / sqrt(nu + eps),  lr = learning_rate (1 - progress (1 - end_factor))

  Epsilon inside the root keeps the derivative of the step finite at g = 0.
  """

  learning_rate: NotNegative = tunable(6e-4, SCALE, "lr")
  end_factor: NotNegative = 0.0
  decay: Fraction = 0.99
  eps: Positive = 0.1

  def _scale(self) -> optax.GradientTransformation:
    # d/dg g / sqrt(g^2 + eps) is finite at g = 0; g / (sqrt(g^2) + eps) makes NaN metagradients.
    return optax.scale_by_rms(self.decay, self.eps, eps_in_sqrt=True)

  def init(self, params: PyTree) -> PyTree:
    """Returns nu_0 = 0, a tree whose arrays have the shapes of the parameters, [...] each."""
    return self._scale().init(params)

  def update(
    self, grads: PyTree, opt_state: PyTree, params: PyTree, progress: Array
  ) -> tuple[PyTree, PyTree]:
    """Takes one step.

    Args:
      grads: g, a tree of arrays [...] like the parameters.
      opt_state: nu, the same.
      params: theta, the same.
      progress: [] from 0 to 1 over training.

    Returns:
      The new theta and nu.
    """
    # nu holds this g already: its part of the derivative is what the metagradient must not miss.
    updates, opt_state = self._scale().update(grads, opt_state)
    # The decay multiplies a rate that may be a tracer, so it is here and not an Optax schedule.
    rate = self.learning_rate * (1 - progress * (1 - self.end_factor))
    updates = optax.tree.scale(-rate, updates)
    return optax.apply_updates(params, updates), opt_state

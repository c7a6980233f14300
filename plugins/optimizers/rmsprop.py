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
    return optax.scale_by_rms(self.decay, self.eps, eps_in_sqrt=True)

  def init(self, params: PyTree) -> PyTree:
    return self._scale().init(params)

  def update(
    self, grads: PyTree, opt_state: PyTree, params: PyTree, progress: Array
  ) -> tuple[PyTree, PyTree]:
    updates, opt_state = self._scale().update(grads, opt_state)
    rate = self.learning_rate * (1 - progress * (1 - self.end_factor))
    updates = optax.tree.scale(-rate, updates)
    return optax.apply_updates(params, updates), opt_state

"""Plain gradient descent."""

import dataclasses

import jax

from selftune import SCALE, Array, NotNegative, PyTree, register, tunable


@register("optimizer", "descent")
@dataclasses.dataclass(frozen=True)
class Descent:
  """theta <- theta - lr (1 - progress) g; no state."""

  learning_rate: NotNegative = tunable(1e-4, SCALE, "lr")

  def init(self, params: PyTree) -> PyTree:
    del params
    return ()

  def update(
    self, grads: PyTree, opt_state: PyTree, params: PyTree, progress: Array
  ) -> tuple[PyTree, PyTree]:
    rate = self.learning_rate * (1 - progress)
    return jax.tree.map(lambda x, g: x - rate * g, params, grads), opt_state

"""The optimisers of Optax, by name."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax

from ...core.api import SCALE, Array, NotNegative, PyTree, register, tunable


@register("optimizer", "optax")
@dataclasses.dataclass(frozen=True)
class Optax:
  """An optimiser of Optax: `adam`, `sgd`, `rmsprop`, `lion`, ... at a constant learning rate.

  Of the metaparameters (`metagradient.optimizer = @optax()`) or of the agent, whose metagradient
  needs a derivative that is finite at zero gradient: where an optimiser has an epsilon inside the
  root (`eps_root`), it is 1e-8 unless `kwargs` say otherwise.

  Attributes:
    name: of the function in Optax that makes it.
    learning_rate: its argument of that name.
    kwargs: its other arguments.

  Raises:
    ValueError: Optax has no such optimiser, it does not take these arguments, or its steps take
      more than gradients and parameters, as those of lbfgs do.
  """

  name: str = "adam"
  learning_rate: NotNegative = tunable(1e-3, SCALE, "lr")
  kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    # Traced once for what it raises: a wrong name is to be told when it is configured. That starts
    # no device, of which the configuration has yet to say how many there are.
    some, progress = (jax.ShapeDtypeStruct(shape, np.float32) for shape in ((2, 2), ()))
    try:
      jax.eval_shape(lambda x, t: self.update(x, self.init(x), x, t), some, progress)
    except TypeError as error:
      raise ValueError(
        f"optax.name = {self.name!r} with kwargs = {dict(self.kwargs)} makes no step of gradients "
        f"and parameters alone: {error}."
      ) from error

  def _transformation(self) -> optax.GradientTransformation:
    """Makes the optimiser at its rate, which may be traced: of some it is no mere factor."""
    # Optax has many functions; those that take a learning rate are its optimisers.
    make: Any = getattr(optax, self.name, None)
    parameters = inspect.signature(make).parameters if inspect.isfunction(make) else {}
    if "learning_rate" not in parameters:
      raise ValueError(f"optax.name = {self.name!r}: Optax has no optimiser of that name.")
    # The derivative of sqrt(nu) is infinite at nu = 0, where a parameter has had no gradient.
    finite = {"eps_root": 1e-8} if "eps_root" in parameters else {}
    try:
      return make(learning_rate=self.learning_rate, **(finite | dict(self.kwargs)))
    except TypeError as error:
      raise ValueError(f"optax.kwargs of {self.name}: {error}.") from error

  def init(self, params: PyTree) -> PyTree:
    """Returns the first state for parameters, a tree of arrays [...]."""
    return self._transformation().init(params)

  def update(
    self, grads: PyTree, opt_state: PyTree, params: PyTree, progress: Array
  ) -> tuple[PyTree, PyTree]:
    """Takes one step; arguments and results are those of `api.Optimizer`, trees of [...]."""
    del progress
    updates, opt_state = self._transformation().update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state

"""The contract of what makes steps: optimisers and tuners."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..api import checks, tunables
from ..api.online import ScalarTuner, TunerInputs
from ..api.registry import name_of
from ..api.types import PyTree
from . import inputs, numbers
from .rows import Check, Found


def optimizer(part: str, plugin: Any) -> Iterator[Check]:
  """Checks of an optimiser, on a few parameters."""
  name = name_of(plugin)
  declared = {t.name: float(t.value) for t in tunables.declared(name, plugin)}
  params = {"w": jnp.array([1.0, -2.0, 3.0]), "b": jnp.ones(())}
  grads = {"w": jnp.array([0.1, 0.3, -0.2]), "b": jnp.array(-0.4)}

  def call(params: PyTree, state: PyTree, grads: PyTree, values: Any, progress: Any) -> PyTree:
    bound = tunables.bind({name: plugin}, values)[name]
    given = bound.update(grads, state, params, progress)
    return checks.optimizer(part, given, params, state)

  def first(params: PyTree) -> PyTree:
    return checks.arrays(part, "its first state", plugin.init(params))

  update, begin = jax.jit(call), jax.jit(first)

  @functools.cache
  def played() -> tuple[PyTree, list[int]]:
    """Makes some steps: where they led, and how much each traced."""
    state = [params, begin(params)]
    steps = range(numbers.CALLS)
    given = [jax.tree.map(lambda g, n=n: g / (n + 1), grads) for n in steps]
    # Tuned values differ from update to update: that must compile nothing anew.
    tuned = [{key: np.float32(x * (1 - n / 10)) for key, x in declared.items()} for n in steps]

    def call(n: int) -> None:
      state[:] = update(*state, given[n], tuned[n], np.float32(0.5))

    _, counts = numbers.played(call)
    return {"params": state[0], "state": state[1]}, counts

  def shapes() -> Found:
    jax.eval_shape(call, params, begin(params), grads, {}, np.float32(0.5))
    return Found()

  def finite() -> Found:
    return numbers.finite(played()[0], "its ")

  def once() -> Found:
    return numbers.traced_once(played()[1], part)

  def zero() -> Found:
    # A root or a norm has no finite slope at 0, and metagradients go through this derivative.
    zeros = jax.tree.map(jnp.zeros_like, grads)
    values = {key: jnp.asarray(x, jnp.float32) for key, x in declared.items()}
    of = lambda g, v: call(params, begin(params), g, v, jnp.float32(0.5))[0]
    return numbers.finite(jax.jit(jax.jacobian(of, (0, 1)))(zeros, values), "its derivative ")

  def derivative() -> Found:
    with jax.enable_x64(True):
      at, g = inputs.doubled(params), inputs.doubled(grads)
      values = {key: jnp.asarray(x, float) for key, x in declared.items()}
      # After a step: an average of nothing has kinks of its own.
      with numbers.in_float64(part):
        _, state = jax.jit(call)(at, first(at), g, {}, jnp.asarray(0.25))
      # Only real numbers can be moved: a count of steps has no derivative.
      moving, still = _split(state)

      def of(x: tuple[PyTree, ...]) -> PyTree:
        new = call(x[0], _joined(x[1], still), x[2], x[3], jnp.asarray(0.5))
        return new[0], _split(new[1])[0]

      return numbers.derivative(of, (at, moving, g, values), "the derivative of its step")

  yield Check(part, "shapes", shapes)
  yield Check(part, "finite numbers", finite)
  yield Check(part, "one compilation", once)
  yield Check(part, "finite at no gradient", zero)
  yield Check(part, "derivative of the step", derivative)


def tuner(part: str, plugin: Any) -> Iterator[Check]:
  """Checks of a tuner of step sizes, on five parameters."""
  size = 5

  def drawn(seed: int) -> TunerInputs:
    rng = np.random.default_rng(seed)
    delta, decay = (np.asarray(x, np.float32) for x in (0.3, 0.9))
    vector = lambda: rng.normal(size=size).astype(np.float32)
    return TunerInputs(delta, decay, *(vector() for _ in TunerInputs._fields[2:]))

  params = np.ones(size, np.float32)
  begin = jax.jit(lambda params: checks.arrays(part, "its first state", plugin.init(0.1, params)))

  @jax.jit
  def update(state: PyTree, x: TunerInputs) -> tuple[PyTree, Any]:
    return checks.tuner(part, plugin.update(state, x), state, x.trace)

  @functools.cache
  def played() -> tuple[PyTree, list[int]]:
    """Makes some updates: what they gave, and how much each traced."""
    state, alpha = [begin(params)], [np.zeros(())]

    def call(n: int) -> None:
      state[0], alpha[0] = update(state[0], drawn(n))

    _, counts = numbers.played(call)
    return {"state": state[0], "alpha": alpha[0]}, counts

  def shapes() -> Found:
    given = jax.eval_shape(update, begin(params), drawn(0))
    state, alpha = begin(params), given[1]
    checks.step_sizes(part, "beta", plugin.beta(state), jnp.asarray(params))
    checks.metrics(part, plugin.metrics(state), ())
    if isinstance(plugin, ScalarTuner):
      rule = plugin.init_rule(0.1, jnp.asarray(params))
      checks.tree(part, "its scalars", state.rule, rule)
    return Found(note=f"alpha {list(alpha.shape)} of {size} parameters")

  def finite() -> Found:
    return numbers.finite(played()[0], "its ")

  def once() -> Found:
    return numbers.traced_once(played()[1], part)

  yield Check(part, "shapes", shapes)
  yield Check(part, "finite numbers", finite)
  yield Check(part, "one compilation", once)


def _split(tree: PyTree) -> tuple[list[Any], tuple[Any, list[Any]]]:
  """Divides a tree [...] into its float64 arrays, and the rest by which it is put together."""
  leaves, structure = jax.tree.flatten(tree)
  real = [x.dtype == np.float64 for x in leaves]
  rest = [None if is_real else x for x, is_real in zip(leaves, real, strict=True)]
  return [x for x, is_real in zip(leaves, real, strict=True) if is_real], (structure, rest)


def _joined(moving: list[Any], still: tuple[Any, list[Any]]) -> PyTree:
  structure, rest = still
  them = iter(moving)
  return structure.unflatten([next(them) if x is None else x for x in rest])

"""The contract of correctors and loss terms."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..agent import distributions
from ..api import checks, tunables
from ..api.errors import UserError
from ..api.registry import name_of
from ..api.types import EnvSpec, PyTree
from . import inputs, numbers
from .rows import Check, Found, NotChecked

Specs = Callable[[], Sequence[EnvSpec]]  # those that a plugin may meet; it is to serve one


def transitions(part: str, plugin: Any, specs: Specs, corrector: bool) -> Iterator[Check]:
  """Checks of a corrector or a loss term.

  Args:
    part: names it.
    plugin: the plugin.
    specs: a loss term is to serve the actions of one of them.
    corrector: whether it is one.
  """
  name = name_of(plugin)
  declared = {t.name: float(t.value) for t in tunables.declared(name, plugin)}

  def call(values: dict[str, Any], x: PyTree, distribution: Any) -> PyTree:
    bound = tunables.bind({name: plugin}, values)[name]
    like = x.reward
    if corrector:
      return checks.targets(part, bound(x), like, ())
    return checks.loss(part, bound(x._replace(distribution=distribution)), like, ())

  @functools.cache
  def subject() -> tuple[Any, Any]:
    """Finds the distribution that the plugin serves, and the jitted call."""
    first: UserError | None = None
    for distribution in _distributions(specs()):
      of = functools.partial(call, distribution=distribution)
      try:
        jax.eval_shape(of, declared, _inputs(corrector, distribution))
        return distribution, jax.jit(of)
      except UserError as error:
        first = first or error
    raise first or NotChecked("there are no actions to check it with")

  def data(dtype: Any = np.float32) -> PyTree:
    return _inputs(corrector, subject()[0], dtype)

  def values(scale: float = 1.0) -> dict[str, Any]:
    return {key: np.float32(scale * x) for key, x in declared.items()}

  def shapes() -> Found:
    subject()
    t, b = data().reward.shape
    return Found(note=f"[T, B] = [{t}, {b}]")

  @functools.cache
  def played() -> tuple[PyTree, list[int]]:
    """Makes some calls: what the first gave, and how much each traced."""
    x, traced = data(), subject()[1]
    # Tuned values differ from update to update: that must compile nothing anew.
    return numbers.played(lambda n: traced(values(1 - n / 10), x))

  def finite() -> Found:
    (found, metrics), _ = played()
    gave = "its targets" if corrector else "its loss"
    numbers.finite(found._asdict() if corrector else found, gave)
    return numbers.finite(metrics, "its metrics")

  def once() -> Found:
    return numbers.traced_once(played()[1], part)

  # Training differentiates by all of these: metagradients go through targets, and over several
  # updates through the values and ratios that core only stops in the inner gradient.
  moving = ("log_is", "value") if corrector else ("policy", "value", "targets")

  def derivative() -> Found:
    distribution = subject()[0]
    with jax.enable_x64(True):
      x = jax.tree.map(jnp.asarray, data(np.float64))
      f = lambda moved: call({}, x._replace(**moved), distribution)[0]
      moved = {field: getattr(x, field) for field in moving}
      return numbers.derivative(f, moved, f"its derivative by {', '.join(moving)}")

  def by_tunables() -> Found:
    distribution = subject()[0]
    with jax.enable_x64(True):
      x = jax.tree.map(jnp.asarray, data(np.float64))
      # Off the configured value, which is often an end of its range: a difference steps over it.
      at = {key: jnp.asarray(0.9 * value, float) for key, value in declared.items()}
      f = lambda moved: call(moved, x, distribution)[0]
      return numbers.derivative(f, at, "its derivative by what can be tuned")

  yield Check(part, "shapes", shapes)
  yield Check(part, "finite numbers", finite)
  yield Check(part, "one compilation", once)
  yield Check(part, "derivative by inputs", derivative)
  if declared:
    yield Check(part, "derivative by tunables", by_tunables)


def _inputs(corrector: bool, distribution: Any, dtype: Any = np.float32) -> PyTree:
  if corrector:
    return inputs.corrector_inputs(dtype=dtype)
  # Jitted functions take arrays alone; `call` puts the distribution back.
  return inputs.loss_inputs(distribution, dtype=dtype)._replace(distribution=None)


def _distributions(specs: Sequence[EnvSpec]) -> Iterator[Any]:
  """Yields the distributions of actions of one kind each."""
  seen = set()
  for spec in specs:
    found = distributions.for_action_spec(spec.action)
    if type(found) not in seen:
      seen.add(type(found))
      yield found

"""The contract of networks."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..agent import distributions
from ..api import checks
from ..api.contracts import Network
from ..api.errors import UserError, plugin_mistakes
from ..api.types import EnvSpec, PyTree
from . import inputs, numbers
from .rows import Check, Failed, Found, NotChecked
from .terms import Specs


def network(part: str, plugin: Any, specs: Specs, heads: int) -> Iterator[Check]:
  """Checks of a network that is built for one of these specs, with so many heads."""

  @functools.cache
  def subject() -> tuple[Network, EnvSpec]:
    refused: Exception | None = None
    for spec in specs():
      size = distributions.for_action_spec(spec.action).size
      try:
        with plugin_mistakes():
          built = plugin.build(spec, size, heads)
      except UserError as error:
        refused = refused or error
        continue
      return checks.network(part, built, size), spec
    raise refused or NotChecked("there are no observations to check it with")

  @functools.cache
  def params() -> PyTree:
    return jax.jit(subject()[0].init)(jax.random.key(0))

  def data(dtype: Any = np.float32) -> Any:
    observation = subject()[1].observation
    shape = (inputs.T, inputs.B)
    return inputs.timesteps(observation, shape, np.random.default_rng(0), dtype)

  @functools.cache
  def unroll() -> Callable[..., PyTree]:
    return jax.jit(subject()[0].unroll)

  @functools.cache
  def played() -> tuple[PyTree, list[int]]:
    """Makes some unrolls, each from where the one before ended: see `numbers.played`."""
    step, drawn, state = data(), params(), [subject()[0].initial_state(inputs.B)]
    # Tuned discounts differ from update to update: that must compile nothing anew.
    gammas = [jnp.full(heads, 0.9 - n / 100) for n in range(numbers.CALLS)]

    def call(n: int) -> PyTree:
      out, state[0] = unroll()(drawn, step, state[0], gammas[n])
      return out

    return numbers.played(call)

  def shapes() -> Found:
    built, spec = subject()
    drawn = jax.eval_shape(built.init, jax.random.key(0))
    state = built.initial_state(inputs.B)
    # A network evaluates the first len(gamma) of its heads.
    for count in {1, heads}:
      jax.eval_shape(built.unroll, drawn, data(), state, jnp.zeros(count))
    size = sum(x.size for x in jax.tree.leaves(drawn))
    return Found(note=f"of {list(spec.observation.shape)}; {size:,} parameters")

  def finite() -> Found:
    numbers.finite(params(), "parameters")
    return numbers.finite(played()[0]._asdict(), "HeadOut.")

  def once() -> Found:
    return numbers.traced_once(played()[1], part)

  def first_clears() -> Found:
    state = subject()[0].initial_state(inputs.B)
    if not jax.tree.leaves(state):
      raise NotChecked("it has no core state")
    step = data()
    # An episode starts at every step, so two core states that differ must give the same outputs.
    step = step._replace(first=np.ones_like(step.first))
    other = jax.tree.map(lambda x: x + jnp.ones_like(x), state)
    outs = [unroll()(params(), step, s, jnp.full(heads, 0.9))[0] for s in (state, other)]
    # NumPy's maximum keeps a NaN, which Python's drops, and which is not at most anything.
    apart = float(np.max([jnp.max(jnp.abs(a - b)) for a, b in zip(*outs, strict=True)]))
    if not apart <= 1e-6:
      raise Failed("where timestep.first, its output still depends on the core state", apart)
    return Found(apart, "difference of outputs")

  def derivative() -> Found:
    with jax.enable_x64(True):
      built, _ = subject()
      drawn, step = inputs.doubled(params()), jax.tree.map(jnp.asarray, data(np.float64))
      state, gamma = inputs.doubled(built.initial_state(inputs.B)), jnp.full(heads, 0.9)

      def outputs(params: PyTree) -> PyTree:
        out, _ = built.unroll(params, step, state, gamma)
        # A logit of -inf is an action that may not be taken: no difference of it is a number.
        return jax.tree.map(lambda x: jnp.where(jnp.isfinite(x), x, 0), out._asdict())

      return numbers.derivative(outputs, drawn, "its derivative by parameters")

  yield Check(part, "shapes", shapes)
  yield Check(part, "finite numbers", finite)
  yield Check(part, "one compilation", once)
  yield Check(part, "first clears state", first_clears)
  yield Check(part, "derivative by params", derivative)

"""Derivatives against central differences in float64, and traces counted."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxprs_in_params

from ..api.errors import UserError
from ..api.types import PyTree
from .rows import Failed, Found, NotChecked

# Of float64. The smaller, the seldomer a rectifier changes sides between the two ends; rounding
# alone then leaves errors of about 1e-9.
SIZE = 1e-7
TOLERANCE = 1e-4  # relative, of a derivative that is right
DIRECTIONS = 3
CALLS = 3  # of a function that may be compiled at the first of them only

_traces = [0]  # of this process


def _count(event: str, *_: Any, **__: Any) -> None:
  # JAX tells its listeners of every trace by this name, whether or not something is compiled after.
  _traces[0] += event == "/jax/core/compile/jaxpr_trace_duration"


@contextlib.contextmanager
def traces() -> Iterator[Callable[[], int]]:
  """Counts what JAX traces within it, compiled or not, by whatever code.

  Yields:
    A function that gives the number so far.
  """
  before = _traces[0]
  jax.monitoring.register_event_duration_secs_listener(_count)
  try:
    yield lambda: _traces[0] - before
  finally:
    jax.monitoring.unregister_event_duration_listener(_count)


def played(call: Callable[[int], Any]) -> tuple[Any, list[int]]:
  """Makes some calls of what is compiled; nothing of it may have been called before.

  Args:
    call: makes call number n, from 0 on.

  Returns:
    What the first gave, and how much each call traced.
  """
  gave, counts = [], []
  for n in range(CALLS):
    with traces() as traced:
      gave.append(call(n))
    counts.append(traced())
  return gave[0], counts


def traced_once(counts: Sequence[int], what: str) -> Found:
  """Checks that of several calls none but the first traced anything; raises Failed."""
  for n, count in enumerate(counts):
    if n and count:
      raise Failed(
        f"{what} is compiled anew at call {n + 1}: a shape, a dtype, a weak type or a static value "
        "differs from those of the call before"
      )
  return Found(note=f"{len(counts)} calls")


def finite(tree: PyTree, what: str) -> Found:
  """Checks that a tree of arrays [...] holds finite numbers alone.

  Raises:
    Failed: names the first array that does not.
  """
  for path, x in jax.tree_util.tree_leaves_with_path(jax.device_get(tree)):
    x = np.asarray(x)
    if np.issubdtype(x.dtype, np.inexact) and (bad := np.sum(~np.isfinite(x))):
      name = f"{what}{jax.tree_util.keystr(path)}"
      raise Failed(f"{name} is not finite: {bad} of {x.size} numbers")
  return Found()


@contextlib.contextmanager
def in_float64(owner: str) -> Iterator[None]:
  """Turns a UserError within it into NotChecked: differences need float64, and a run never does.

  Raises:
    NotChecked: a plugin gives what it must not in float64, a state that is still float32 above all.
  """
  try:
    yield
  except UserError as error:
    raise NotChecked(f"{owner} does not keep to float64: {error}") from error


def derivative(
  f: Callable[[PyTree], PyTree], x: PyTree, of: str, tolerance: float = TOLERANCE
) -> Found:
  """Checks both modes of a function's derivative, along random directions, against differences.

  Args:
    f: from a tree of float64 arrays [...] to another.
    x: where the derivative is taken.
    of: what the derivative is of and by, for messages.
    tolerance: relative, that is allowed.

  Returns:
    The median of the relative errors along a few directions: a derivative that is wrong is wrong
    along all of them, and one step over a rectifier's kink is of one.

  Raises:
    Failed: they differ.
    NotChecked: it is computed in fewer bits.
  """
  if narrow := narrows(f, x):
    raise NotChecked(f"{of}: computed in {narrow}, where differences say nothing")

  @jax.jit
  def probe(x, direction, weights):
    # One number, <weights, Jacobian direction>, in three ways that must agree: by differences, by
    # forward mode (jvp) and by reverse mode (vjp).
    moved = lambda by: f(jax.tree.map(lambda a, u: a + by * u, x, direction))
    ends = moved(SIZE), moved(-SIZE)
    slope = jax.tree.map(lambda up, down: (up - down) / (2 * SIZE), *ends)
    out, forward = jax.jvp(f, (x,), (direction,))
    _, pull_back = jax.vjp(f, x)
    weighted = jax.tree.map(jnp.multiply, weights, slope)
    (backward,) = pull_back(weights)
    found = _dot(weights, slope), _dot(weights, forward), _dot(backward, direction)
    return found, (_norm(weighted), _norm(jax.tree.map(jnp.multiply, weights, out)))

  rng = np.random.default_rng(0)
  drawn = lambda tree: jax.tree.map(lambda a: rng.normal(size=a.shape), tree)
  errors = []
  for _ in range(DIRECTIONS):
    direction, weights = drawn(x), drawn(jax.eval_shape(f, x))
    (slope, *both), (scale, size) = probe(x, direction, weights)
    # Rounding: differences of numbers of this size say nothing of what is smaller.
    least = max(abs(slope), scale, 1e-16 * size / SIZE / tolerance, 1e-30)
    # NumPy's maximum keeps a NaN of either mode, which Python's drops.
    errors.append(np.max([abs(float(found - slope)) / float(least) for found in both]))
  error = float(np.median(errors))
  if not error <= tolerance:
    raise Failed(f"{of} differs from central differences", error)
  return Found(error, "relative error")


def narrows(f: Callable[..., Any], *args: PyTree) -> str:
  """Names the type of fewer bits that a function computes in somewhere; '' if there is none.

  Args:
    f: the function.
    *args: trees of float64 arrays, [...] each.
  """

  def found(jaxpr: Any) -> Iterator[str]:
    for equation in jaxpr.eqns:
      if equation.primitive.name == "convert_element_type":
        before, after = (v[0].aval.dtype for v in (equation.invars, equation.outvars))
        if before == np.float64 != after and jnp.issubdtype(after, jnp.floating):
          yield str(after)
      # Programs within it, too: jitted functions, loops, derivatives of one's own.
      for inner in jaxprs_in_params(equation.params):
        yield from found(inner)

  return next(found(jax.make_jaxpr(f)(*args).jaxpr), "")


def _dot(a: PyTree, b: PyTree) -> jax.Array:
  return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, a, b)), jnp.zeros(()))


def _norm(tree: PyTree) -> jax.Array:
  return jnp.sqrt(_dot(tree, tree))

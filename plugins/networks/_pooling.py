"""Max-pooling whose derivatives are cheap on CPU.

XLA differentiates `reduce_window` into select-and-scatter, which on CPU costs more than the
convolutions around it. Here a window's maximum is taken over columns, then over rows; each is a few
elementwise selections between shifted arrays, and so are its derivatives in both modes.
"""

import jax
import jax.numpy as jnp
from jax import Array


def max_pool(x: Array) -> Array:
  """Takes maxima over 3x3 windows, stride 2, padded as SAME: [N, H, W, C] -> [N, H/2, W/2, C].

  Sizes are rounded up. Equal maxima of a window send the whole derivative to the first in
  row-major order, as XLA does.
  """
  # Columns first: a tie goes to the first row, and in it to the first column: row-major order.
  return _max_along(_max_along(x, 2), 1)


def _max_along(x: Array, axis: int) -> Array:
  """Takes maxima over windows of three along one axis, with stride 2."""

  # custom_jvp, not custom_vjp: the metagradient is forward mode over this.
  @jax.custom_jvp
  def maximum(x: Array) -> Array:
    a, b, c = _windows(x, axis, -jnp.inf)
    return jnp.maximum(jnp.maximum(a, b), c)

  @maximum.defjvp
  def _(primals, tangents):
    a, b, c = _windows(primals[0], axis, -jnp.inf)
    da, db, dc = _windows(tangents[0], axis, 0.0)
    ab = jnp.maximum(a, b)
    # >=, so that of equal ones the first has it all: maximum's own derivative would share it.
    tangent = jnp.where(ab >= c, jnp.where(a >= b, da, db), dc)  # linear: it has a transpose
    return jnp.maximum(ab, c), tangent

  return maximum(x)


def _windows(x: Array, axis: int, fill: float) -> tuple[Array, Array, Array]:
  """Returns the first, second and third element of every window, [..., ceil(n / 2), ...].

  The axis is seen as pairs, one a window: its first two elements; the third is the next pair's
  first. So stride 2 becomes an index, and the transpose of this function no scatter. SAME pads an
  odd size by one on both sides, an even one on the right.
  """
  n = x.shape[axis]
  x = _pad(x, axis, (n % 2, 0), fill)
  pairs = x.reshape(*x.shape[:axis], -1, 2, *x.shape[axis + 1 :])
  first, second = (jnp.squeeze(y, axis + 1) for y in jax.lax.split(pairs, (1, 1), axis + 1))
  rest = jax.lax.slice_in_dim(first, 1, None, axis=axis)
  return first, second, _pad(rest, axis, (0, 1), fill)


def _pad(x: Array, axis: int, width: tuple[int, int], fill: float) -> Array:
  padding = [(0, 0, 0)] * x.ndim
  padding[axis] = (*width, 0)
  return jax.lax.pad(x, jnp.asarray(fill, x.dtype), padding)

"""Max-pooling whose derivatives are cheap on CPU.

XLA differentiates `reduce_window` into select-and-scatter, which on CPU costs more than the
convolutions around it. Here a window's maximum is taken over columns, then over rows; each is a few
elementwise selections between shifted arrays, and so are its derivatives in both modes.
"""

import jax
import jax.numpy as jnp

from ...core.types import Array


def max_pool(x: Array) -> Array:
  """Maximum over 3x3 windows with stride 2, padded as SAME: [N, H, W, C] -> [N, H/2, W/2, C].

  Sizes are rounded up. Equal maxima of a window send the whole derivative to the first in
  row-major order, as XLA does.
  """
  return _max_along(_max_along(x, 2), 1)


def _max_along(x: Array, axis: int) -> Array:
  @jax.custom_jvp
  def maximum(x: Array) -> Array:
    a, b, c = _windows(x, axis, -jnp.inf)
    return jnp.maximum(jnp.maximum(a, b), c)

  @maximum.defjvp
  def _(primals, tangents):
    a, b, c = _windows(primals[0], axis, -jnp.inf)
    da, db, dc = _windows(tangents[0], axis, 0.0)
    ab = jnp.maximum(a, b)
    tangent = jnp.where(ab >= c, jnp.where(a >= b, da, db), dc)  # linear: it has a transpose
    return jnp.maximum(ab, c), tangent

  return maximum(x)


def _windows(x: Array, axis: int, fill: float) -> tuple[Array, Array, Array]:
  """The first, second and third element of every window along `axis`.

  SAME pads an odd size by one on both sides, an even one on the right only. The padded axis is seen
  as pairs, so that stride 2 becomes an index and the transpose of this function no scatter.
  """
  n = x.shape[axis]
  out = (n + 1) // 2
  padding = [(0, 0, 0)] * x.ndim
  padding[axis] = (n % 2, 2 * (out + 1) - n - n % 2, 0)
  padded = jax.lax.pad(x, jnp.asarray(fill, x.dtype), padding)
  pairs = padded.reshape(*x.shape[:axis], out + 1, 2, *x.shape[axis + 1 :])
  even = jax.lax.index_in_dim(pairs, 0, axis + 1, keepdims=False)
  odd = jax.lax.index_in_dim(pairs, 1, axis + 1, keepdims=False)
  first, third = (jax.lax.slice_in_dim(even, i, i + out, axis=axis) for i in (0, 1))
  return first, jax.lax.slice_in_dim(odd, 0, out, axis=axis), third

"""A 2-d convolution whose derivatives are as fast as itself on CPU, inside loops too.

XLA runs a convolution on CPU fast only in the layout NHWC, HWIO, NHWC. It brings others into this
form, but never those in the body of a loop (it "canonicalizes all top-level convolutions"), and
JAX writes both derivatives of a convolution in other layouts. So a gradient accumulated by
`lax.scan` over micro-batches would be some twenty-five times slower. Hence this primitive: the
same operation, with transposes that put the operands, not the dimension numbers, in order.
(`custom_vjp` would not do: the metagradient needs forward mode. Nor would
`custom_derivatives.linear_call`, which cannot be vmapped.)
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

LANES = 8  # float32 in a vector register: CPUs are up to twice as fast at channels in whole ones
Padding = tuple[tuple[int, int], ...]  # low and high, of rows and of columns


def convolve(x: Array, w: Array, stride: int = 1, padding: str = "SAME") -> Array:
  """Convolves images with a kernel, padded with zeros.

      y[n, i, j, o] = sum_{a, b, c} x[n, s i + a, s j + b, c] w[a, b, c, o]

  Args:
    x: [N, H, W, C].
    w: [A, B, C, O].
    stride: s, of both axes.
    padding: 'SAME' or 'VALID'.

  Returns:
    [N, H', W', O].
  """
  pads = jax.lax.padtype_to_pads(x.shape[1:3], w.shape[:2], (stride, stride), padding)
  return _primitive.bind(x, w, stride=stride, padding=tuple(pads))


def plain(x: Array, w: Array, stride: int = 1, padding: str = "SAME") -> Array:
  """The same as `convolve` with the derivatives that JAX gives it."""
  return _lax(x, w, stride=stride, padding=padding)


def _lax(
  x: Array,
  w: Array,
  *,
  stride: int = 1,
  padding: str | Sequence[tuple[int, int]],
  dilate_x: int = 1,
  dilate_w: int = 1,
) -> Array:
  return jax.lax.conv_general_dilated(
    x,
    w,
    window_strides=(stride, stride),
    padding=padding,
    lhs_dilation=(dilate_x, dilate_x),
    rhs_dilation=(dilate_w, dilate_w),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


def _shape(x: Array, w: Array, *, stride: int, padding: Padding) -> ShapedArray:
  axes = zip(x.shape[1:3], w.shape[:2], padding, strict=True)
  sizes = [(n + low + high - size) // stride + 1 for n, size, (low, high) in axes]
  return ShapedArray((x.shape[0], *sizes, w.shape[-1]), x.dtype)


def _transpose_x(g: Array, x: ad.UndefinedPrimal, w: Array, *, stride: int, padding: Padding):
  """Computes dL/dx: the output's gradient, spread by the stride, with the kernel turned around.

  dx[n, p, q, c] = sum over (i, a) with s i + a - low = p, and (j, b) likewise, and o, of
  g[n, i, j, o] w[a, b, c, o]: a convolution of g, with s - 1 zeros between its rows, and the
  kernel reversed, C and O swapped. Args and result are [N, H', W', O] and [N, H, W, C].
  """
  axes = zip(x.aval.shape[1:3], w.shape[:2], g.shape[1:3], padding, strict=True)
  # As much as makes the result as large as x: of a kernel of A rows, A - 1 - low above; below,
  # what of the dilated gradient's (H' - 1) s + 1 rows is missing to H + A - 1.
  pads = [(size - 1 - low, n + low - 1 - (out - 1) * stride) for n, size, out, (low, _) in axes]
  return _lax(g, jnp.flip(w, (0, 1)).swapaxes(2, 3), padding=pads, dilate_x=stride)


def _transpose_w(g: Array, x: Array, w: ad.UndefinedPrimal, *, stride: int, padding: Padding):
  """Computes dL/dw: convolves input and output gradient as if the batch were their channels.

  dw[a, b, c, o] = sum_{n, i, j} x[n, s i + a - low, s j + b - low, c] g[n, i, j, o]: x as C images
  of N channels, g as a kernel of H' x W' that is dilated by s. The result is [A, B, C, O].
  """
  axes = zip(x.shape[1:3], w.aval.shape[:2], g.shape[1:3], padding, strict=True)
  # Rows of x that no window reaches are cut off below, by a padding that is negative.
  pads = [(low, size + (out - 1) * stride - n - low) for n, size, out, (low, _) in axes]
  whole = [(0, -x.shape[0] % LANES), (0, 0), (0, 0), (0, 0)]  # zeros add nothing to the sum
  x, g = jnp.pad(x, whole), jnp.pad(g, whole)
  y = _lax(x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3), padding=pads, dilate_w=stride)
  return y.transpose(1, 2, 0, 3)


def _batch(operands: Sequence[Array], axes: Sequence[int | None], **parameters):
  """Batches by one larger convolution where the kernel is shared; else by XLA's own rule."""
  x, w = operands
  x_axis, w_axis = axes
  if x_axis is not None and w_axis is None:  # inputs only: one larger batch
    x = jnp.moveaxis(x, x_axis, 0)
    y = _primitive.bind(x.reshape(-1, *x.shape[2:]), w, **parameters)
    return y.reshape(*x.shape[:2], *y.shape[1:]), 0
  # A kernel for each: XLA makes groups of them, which this primitive has no form for.
  return jax.vmap(lambda x, w: _lax(x, w, **parameters), in_axes=(x_axis, w_axis))(x, w), 0


_primitive = Primitive("selftune_convolution")
_primitive.def_impl(jax.jit(_lax, static_argnames=("stride", "padding")))
_primitive.def_abstract_eval(_shape)
# Bilinear: JAX derives both modes, to any order, from the two transposes.
mlir.register_lowering(_primitive, mlir.lower_fun(_lax, multiple_results=False))
ad.defbilinear(_primitive, _transpose_x, _transpose_w)
batching.primitive_batchers[_primitive] = _batch

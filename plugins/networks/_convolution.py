"""The convolution of the residual network, in the form that is fast on CPU."""

import haiku as hk
import jax
import jax.numpy as jnp
from jax import Array

FEW = 8  # with fewer input channels than this, two pixels are convolved as one


def conv3x3(x: Array, channels: int, name: str) -> Array:
  """Convolution 3x3, stride 1, padded as SAME; called inside a Haiku transform.

  Parameters `name_w` [3, 3, C, channels] and `name_b` [channels], initialised as `hk.Conv2D`.

  Args:
    x: [N, H, W, C].

  Returns:
    [N, H, W, channels].
  """
  shape = (3, 3, x.shape[-1], channels)
  init = hk.initializers.TruncatedNormal((9 * x.shape[-1]) ** -0.5)
  w = hk.get_parameter(f"{name}_w", shape, x.dtype, init)
  b = hk.get_parameter(f"{name}_b", (channels,), x.dtype, jnp.zeros)
  paired = x.shape[-1] < FEW and x.shape[2] % 2 == 0
  return (_paired(x, w) if paired else _convolve(x, w, "SAME")) + b.reshape(1, 1, 1, -1)


def _convolve(x: Array, w: Array, padding: str) -> Array:
  layout = ("NHWC", "HWIO", "NHWC")
  return jax.lax.conv_general_dilated(x, w, (1, 1), padding, dimension_numbers=layout)


def _paired(x: Array, w: Array) -> Array:
  """The same convolution, of pairs of neighbours in a row seen as one pixel of twice the channels.

  After one column of padding, the outputs (2k, 2k+1) need the columns 2k ... 2k+3: the pairs k and
  k+1. A quarter of the kernel is zeros, yet on CPU a stack of frames (4 channels) takes a third of
  the time, because few channels fill no vector register.
  """
  n, height, width, c = x.shape
  out = w.shape[-1]
  x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))).reshape(n, height + 2, width // 2 + 1, 2 * c)
  left, right = (jnp.pad(w, ((0, 0), (i, 1 - i), (0, 0), (0, 0))) for i in (0, 1))
  pairs = jnp.concatenate([left, right], -1).reshape(3, 2, 2 * c, 2 * out)
  return _convolve(x, pairs, "VALID").reshape(n, height, width, out)

"""Haiku layers that more than one network uses."""

import os

import haiku as hk
import jax
import jax.numpy as jnp
from jax import Array

from ._convolution import convolve, plain

FEW = 8  # with fewer input channels than this, two pixels are convolved as one


def conv2d(
  x: Array, name: str, channels: int, size: int, stride: int = 1, padding: str = "SAME"
) -> Array:
  """Convolves with a bias, [N, H, W, C] -> [N, H', W', channels]; within a Haiku transform.

  Parameters `{name}_w` [size, size, C, channels] and `{name}_b` [channels], initialised as those of
  `hk.Conv2D`.
  """
  c = x.shape[-1]
  # hk.Conv2D's own: a standard deviation of one over the root of the fan-in.
  init = hk.initializers.TruncatedNormal((size * size * c) ** -0.5)
  w = hk.get_parameter(f"{name}_w", (size, size, c, channels), x.dtype, init)
  b = hk.get_parameter(f"{name}_b", (channels,), x.dtype, jnp.zeros)
  if not for_cpu():
    y = plain(x, w, stride, padding)
  # Pairing takes rows of whole pairs, and pays only while so few channels fill no register.
  elif size == 3 and stride == 1 and padding == "SAME" and c < FEW and x.shape[2] % 2 == 0:
    y = _paired(x, w)
  else:
    y = convolve(x, w, stride, padding)
  # Ranks are equal by hand, here and elsewhere: the tests forbid JAX to promote them.
  return y + b.reshape(1, 1, 1, -1)


def for_cpu() -> bool:
  """Whether convolutions have the forms that are fast on a CPU; elsewhere they are XLA's own.

  The variable SELFTUNE_CONVOLUTION, `own` or `xla`, says otherwise, to compare them.
  """
  platform = "own" if jax.default_backend() == "cpu" else "xla"
  return os.environ.get("SELFTUNE_CONVOLUTION", platform) == "own"


def _paired(x: Array, w: Array) -> Array:
  """Convolves 3x3 pairs of neighbours in a row, seen as one pixel of twice the channels.

  [N, H, W, C] with [3, 3, C, O] -> [N, H, W, O], for even W.

  After one column of padding, the outputs (2k, 2k+1) need the columns 2k ... 2k+3: the pairs k and
  k+1. A quarter of the kernel is zeros, yet on CPU a stack of frames (4 channels) takes a third of
  the time, because so few channels fill no vector register.
  """
  n, height, width, c = x.shape
  out = w.shape[-1]
  x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))).reshape(n, height + 2, width // 2 + 1, 2 * c)
  # Output 2k sees columns 2k to 2k + 2 of the four, output 2k + 1 the other three.
  left, right = (jnp.pad(w, ((0, 0), (i, 1 - i), (0, 0), (0, 0))) for i in (0, 1))
  pairs = jnp.concatenate([left, right], -1).reshape(3, 2, 2 * c, 2 * out)
  return convolve(x, pairs, padding="VALID").reshape(n, height, width, out)

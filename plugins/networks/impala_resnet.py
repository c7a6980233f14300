"""The residual network of IMPALA."""

import dataclasses
from typing import Literal

import haiku as hk
import jax
from jax import Array

from ...core.api import Count, EnvSpec, Network, register
from ._compose import ComputeDtype, check_image, compose
from ._heads import GammaEmbedding
from ._layers import conv2d
from ._pooling import max_pool


@register("network", "impala_resnet")
@dataclasses.dataclass(frozen=True)
class ImpalaResnet:
  """Residual convolutions (Espeholt et al. 2018, Figure 3; STAC, Table 2).

  Each block: conv 3x3, max-pool 3x3 with stride 2, then two residual units
  x + conv(relu(conv(relu(x)))); at the end a ReLU, and no dense layer before the heads.

  `lstm` are the units of an LSTM before the heads, None for none. The defaults are those for Atari;
  from pixels of control tasks the paper has `channels` (32, 32, 32), an `lstm` of 256, and
  `pooling` 'stride': the first conv of each block has stride 2, and nothing is pooled. 'xla' is
  XLA's own pooling and derivative, kept to compare with; it is slow.
  """

  channels: tuple[Count, ...] = (16, 32, 32)
  pooling: Literal["fast", "xla", "stride"] = "fast"
  lstm: Count | None = None
  gamma_embedding: GammaEmbedding = "none"
  compute_dtype: ComputeDtype = "float32"

  def build(self, spec: EnvSpec, policy_size: int, heads: int) -> Network:
    """Builds the network for images [H, W, C]; its pooling halves them in each block."""
    check_image(spec, "impala_resnet", smallest=1)
    # With 'stride' the block's first convolution halves the image, so nothing is left to pool.
    pool = {"fast": max_pool, "xla": _xla_max_pool, "stride": lambda x: x}[self.pooling]
    stride = 2 if self.pooling == "stride" else 1

    def torso(x: Array) -> Array:
      for block, channels in enumerate(self.channels):
        x = pool(conv2d(x, f"block_{block}_in", channels, 3, stride))
        for unit in range(2):
          # ReLU before each convolution, so that the sum itself is never cut off.
          y = conv2d(jax.nn.relu(x), f"block_{block}_unit_{unit}_a", channels, 3)
          x = x + conv2d(jax.nn.relu(y), f"block_{block}_unit_{unit}_b", channels, 3)
      return jax.nn.relu(x).reshape(x.shape[0], -1)

    return compose(
      torso, spec, policy_size, heads, self.lstm, self.gamma_embedding, self.compute_dtype
    )


def _xla_max_pool(x: Array) -> Array:
  # Windows and strides of [N, H, W, C].
  return hk.max_pool(x, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")

"""The residual network of IMPALA."""

import dataclasses
from typing import Literal

import haiku as hk
import jax
from jax import Array

from ...core.interfaces import Network
from ...core.registry import register
from ...core.types import EnvSpec
from ._feed_forward import ComputeDtype, check_image, feed_forward
from ._heads import GammaEmbedding
from ._layers import conv2d
from ._pooling import max_pool


@register("network", "impala_resnet")
@dataclasses.dataclass(frozen=True)
class ImpalaResnet:
  """Residual convolutions (Espeholt et al. 2018, Figure 3; STAC, Table 2, Atari: no LSTM).

  Each block: conv 3x3, max-pool 3x3 with stride 2, then two residual units
  x + conv(relu(conv(relu(x)))); at the end a ReLU, and no dense layer before the heads.

  `pooling` 'xla' is XLA's own pooling and derivative, kept to compare with; they differ in speed.
  """

  channels: tuple[int, ...] = (16, 32, 32)
  pooling: Literal["fast", "xla"] = "fast"
  gamma_embedding: GammaEmbedding = "none"
  compute_dtype: ComputeDtype = "float32"

  def build(self, spec: EnvSpec, policy_size: int, heads: int) -> Network:
    check_image(spec, "impala_resnet", smallest=1)
    pool = max_pool if self.pooling == "fast" else _xla_max_pool

    def torso(x: Array) -> Array:
      for block, channels in enumerate(self.channels):

        def conv(x: Array, name: str, channels: int = channels, block: int = block) -> Array:
          return conv2d(x, f"block_{block}_{name}", channels, 3)

        x = pool(conv(x, "in"))
        for unit in range(2):
          y = conv(jax.nn.relu(x), f"unit_{unit}_a")
          x = x + conv(jax.nn.relu(y), f"unit_{unit}_b")
      return jax.nn.relu(x).reshape(x.shape[0], -1)

    return feed_forward(torso, spec, policy_size, heads, self.gamma_embedding, self.compute_dtype)


def _xla_max_pool(x: Array) -> Array:
  return hk.max_pool(x, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")

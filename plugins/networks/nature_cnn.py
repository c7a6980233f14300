"""The convolutional network of DQN."""

import dataclasses

import haiku as hk
import jax
from jax import Array

from ...core.api import Count, EnvSpec, Network, register
from ._compose import ComputeDtype, check_image, compose
from ._heads import GammaEmbedding
from ._layers import conv2d


@register("network", "nature_cnn")
@dataclasses.dataclass(frozen=True)
class NatureCnn:
  """Three convolutions and a dense layer of 512 (Mnih et al. 2015, Methods).

  `lstm` are the units of an LSTM before the heads, None for none.
  """

  lstm: Count | None = None
  gamma_embedding: GammaEmbedding = "none"
  compute_dtype: ComputeDtype = "float32"

  def build(self, spec: EnvSpec, policy_size: int, heads: int) -> Network:
    """Builds the network for images [H, W, C]."""
    check_image(spec, "nature_cnn", smallest=36)  # 36 leaves one pixel after the third

    def torso(x: Array) -> Array:
      # 84 x 84 becomes 20 x 20, 9 x 9 and 7 x 7: 3136 numbers for the dense layer.
      for i, (channels, size, stride) in enumerate(((32, 8, 4), (64, 4, 2), (64, 3, 1))):
        x = jax.nn.relu(conv2d(x, f"conv_{i}", channels, size, stride, padding="VALID"))
      return jax.nn.relu(hk.Linear(512)(x.reshape(x.shape[0], -1)))

    return compose(
      torso, spec, policy_size, heads, self.lstm, self.gamma_embedding, self.compute_dtype
    )

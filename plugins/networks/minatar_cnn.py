"""The convolutional network of MinAtar."""

import dataclasses

import haiku as hk
import jax
from jax import Array

from ...core.api import Count, EnvSpec, Network, register
from ._compose import ComputeDtype, check_image, compose
from ._heads import GammaEmbedding, Style
from ._layers import conv2d


@register("network", "minatar_cnn")
@dataclasses.dataclass(frozen=True)
class MinAtarCnn:
  """A convolution 3 x 3 and a dense layer of 128 (Young and Tian 2019), for small images.

  `channels` are those of the convolution, `dense` the units of the layer after it. Linear heads as
  in the paper, unless `head_hidden` is given.
  """

  channels: Count = 16
  dense: Count = 128
  head_hidden: Count | None = None
  gamma_embedding: GammaEmbedding = "none"
  compute_dtype: ComputeDtype = "float32"

  def build(self, spec: EnvSpec, policy_size: int, heads: int) -> Network:
    """Builds the network for images [H, W, C], of bits or other numbers."""
    check_image(spec, "minatar_cnn", smallest=3)

    def torso(x: Array) -> Array:
      # Without padding, as in the paper: MinAtar's 10 x 10 becomes 8 x 8.
      x = jax.nn.relu(conv2d(x, "conv", self.channels, 3, padding="VALID"))
      return jax.nn.relu(hk.Linear(self.dense)(x.reshape(x.shape[0], -1)))

    style = Style(self.head_hidden)
    return compose(
      torso, spec, policy_size, heads, None, self.gamma_embedding, self.compute_dtype, style
    )

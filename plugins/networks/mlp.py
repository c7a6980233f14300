"""The multi-layer perceptron of control tasks."""

import dataclasses
import math

import haiku as hk
import jax
from jax import Array

from ...core.api import Count, EnvSpec, Network, register
from ._compose import ComputeDtype, compose
from ._heads import GammaEmbedding


@register("network", "mlp")
@dataclasses.dataclass(frozen=True)
class Mlp:
  """Multi-layer perceptron on the flattened observation (STAC, Table 2).

  `hidden` are the units of its layers, `lstm` those of an LSTM before the heads, None for none. The
  paper's control tasks have an LSTM of 256.
  """

  hidden: tuple[Count, ...] = (256, 256)
  lstm: Count | None = None
  gamma_embedding: GammaEmbedding = "none"
  compute_dtype: ComputeDtype = "float32"

  def build(self, spec: EnvSpec, policy_size: int, heads: int) -> Network:
    """Builds the network for observations of any shape."""

    def torso(x: Array) -> Array:
      x = x.reshape(x.shape[0], math.prod(x.shape[1:]))
      return hk.nets.MLP(self.hidden, activation=jax.nn.relu, activate_final=True)(x)

    return compose(
      torso, spec, policy_size, heads, self.lstm, self.gamma_embedding, self.compute_dtype
    )

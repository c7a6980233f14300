"""The multi-layer perceptron of control tasks."""

import dataclasses
import math
from typing import Literal

import haiku as hk
import jax
import jax.numpy as jnp
from jax import Array

from ...core.api import Count, EnvSpec, Network, register
from ._compose import ComputeDtype, compose
from ._heads import GammaEmbedding, Style
from ._orthogonal import Orthogonal


@register("network", "mlp")
@dataclasses.dataclass(frozen=True)
class Mlp:
  """Multi-layer perceptron on the flattened observation (STAC, Table 2).

  `hidden` are the units of its layers, `lstm` those of an LSTM before the heads, None for none. The
  paper's control tasks have an LSTM of 256. `head_hidden` are the units of the hidden layer that
  each policy and each value has for itself, None for none.

  `torsos` 'separate' gives the values layers of their own, and `init` 'orthogonal' draws orthogonal
  weights, sqrt(2) of hidden layers, 0.01 of policies and 1 of values (Huang et al. 2022, PPO's).
  """

  hidden: tuple[Count, ...] = (256, 256)
  lstm: Count | None = None
  gamma_embedding: GammaEmbedding = "none"
  compute_dtype: ComputeDtype = "float32"
  head_hidden: Count | None = 256
  torsos: Literal["shared", "separate"] = "shared"
  activation: Literal["relu", "tanh"] = "relu"
  init: Literal["haiku", "orthogonal"] = "haiku"

  def build(self, spec: EnvSpec, policy_size: int, heads: int) -> Network:
    """Builds the network for observations of any shape [...], flattened."""
    activation = {"relu": jax.nn.relu, "tanh": jnp.tanh}[self.activation]
    orthogonal, gain = self.init == "orthogonal", math.sqrt(2)
    # sqrt(2) makes up for the half of the second moment that a ReLU takes (He et al. 2015).
    style = Style(self.head_hidden, activation)
    if orthogonal:
      style = style._replace(init=Orthogonal, gain=gain)

    def torso(x: Array) -> Array:
      x = x.reshape(x.shape[0], math.prod(x.shape[1:]))
      # None is Haiku's default: truncated normal, one over the root of the fan-in.
      w_init = Orthogonal(gain) if orthogonal else None
      # The last layer is activated, too: without `head_hidden` heads are linear in what it gives.
      return hk.nets.MLP(self.hidden, w_init, activation=activation, activate_final=True)(x)

    return compose(
      torso,
      spec,
      policy_size,
      heads,
      self.lstm,
      self.gamma_embedding,
      self.compute_dtype,
      style,
      self.torsos == "separate",
    )

"""Convolutional towers for games on a small grid."""

import dataclasses
import math

import haiku as hk
import jax
import jax.numpy as jnp

from ...core.api import Array, Count, EnvSpec, HeadOut, Network, PyTree, TimeStep, register
from ._compose import as_input
from ._layers import conv2d


@register("network", "grid_cnn")
@dataclasses.dataclass(frozen=True)
class GridCnn:
  """A tower for policies and one for values, which share nothing.

  Each is convolutions with ReLU, then dense layers with ReLU, then a linear layer for all heads.
  The defaults are those of Bonnet et al. (2022) for Snake-6x6.

  Attributes:
    channels: of each convolution.
    kernels: rows and columns of each convolution's kernel.
    strides: of each convolution; they pad with zeros.
    policy: units of the dense layers of the policy's tower.
    value: the same of the value's.
  """

  channels: tuple[Count, ...] = (32, 32)
  kernels: tuple[Count, ...] = (2, 2)
  strides: tuple[Count, ...] = (2, 1)
  policy: tuple[Count, ...] = (64, 64)
  value: tuple[Count, ...] = (128, 128)

  def __post_init__(self):
    if not len(self.channels) == len(self.kernels) == len(self.strides):
      raise ValueError("channels, kernels and strides are of each convolution: as many of each.")

  def build(self, spec: EnvSpec, policy_size: int, heads: int) -> Network:
    """Builds the functions for observations [H, W, C]; parameters `{'policy', 'value'}`.

    Raises:
      ValueError: observations are no grids.
    """
    shape = spec.observation.shape
    if len(shape) != 3:
      raise ValueError(
        f"network 'grid_cnn' takes grids [height, width, channels], but observations have shape "
        f"{shape}; write agent.network = @mlp(), which takes any shape"
      )

    def tower(hidden: tuple[int, ...], out: int) -> hk.Transformed:
      def apply(x: jax.Array) -> jax.Array:
        for i, layer in enumerate(zip(self.channels, self.kernels, self.strides, strict=True)):
          x = jax.nn.relu(conv2d(x, f"conv_{i}", *layer, padding="SAME"))
        # Haiku's initialisers, for policies too: small first policies, which other networks have,
        # pass little of a gradient to what lies before them.
        return hk.nets.MLP((*hidden, out))(x.reshape(x.shape[0], -1))

      return hk.without_apply_rng(hk.transform(apply))

    towers = {
      "policy": tower(self.policy, heads * policy_size),
      "value": tower(self.value, heads),
    }

    def init(key: Array) -> PyTree:
      x = jnp.zeros((1, *shape))
      keys = jax.random.split(key)
      return {name: f.init(k, x) for (name, f), k in zip(towers.items(), keys, strict=True)}

    def unroll(
      params: PyTree, timestep: TimeStep, core_state: PyTree, gamma: Array
    ) -> tuple[HeadOut, PyTree]:
      lead = timestep.first.shape
      dtype = jax.tree.leaves(params)[0].dtype
      x = as_input(timestep.observation.reshape(math.prod(lead), *shape), dtype)
      policy = towers["policy"].apply(params["policy"], x).reshape(*lead, heads, policy_size)
      value = towers["value"].apply(params["value"], x).reshape(*lead, heads)
      # [T, B, heads, ...] -> [heads, T, B, ...], of which the first len(gamma) were asked for.
      out = HeadOut(jnp.moveaxis(policy, -2, 0), jnp.moveaxis(value, -1, 0))
      return jax.tree.map(lambda y: y[: len(gamma)], out), core_state

    return Network(init, lambda batch: (), unroll)

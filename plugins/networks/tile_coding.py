"""The network that is linear in tile-coded features."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp

from ...core.api import Array, Count, EnvSpec, Native, SparseNetwork, register
from ._linear import linear_network
from ._tiles import active_tiles, binary_features


@register("network", "tile_coding")
@dataclasses.dataclass(frozen=True)
class TileCoding:
  """Value and policy linear in binary features: one active tile of every tiling.

  The defaults are mountain car's: 16 tilings of 10 x 10 are the Metatrace paper's 1600 features.
  Observations beyond the bounds count as on them.

  Attributes:
    low: least observation; one number a coordinate.
    high: greatest observation.
    tilings: how many; a power of two of at least four times the coordinates is best.
    tiles: of each tiling, along each coordinate.
  """

  low: tuple[float, ...] = (-1.2, -0.07)
  high: tuple[float, ...] = (0.6, 0.07)
  tilings: Count = 16
  tiles: Count = 10

  def __post_init__(self):
    if len(self.low) != len(self.high) or any(
      a >= b for a, b in zip(self.low, self.high, strict=False)
    ):
      raise ValueError(f"low = {self.low} must lie below high = {self.high}.")
    if self.tiles < 2:
      raise ValueError(f"tiles = {self.tiles} must be at least 2.")

  def build(self, spec: EnvSpec, policy_size: int, heads: int) -> SparseNetwork:
    """Builds the network for observations [D] between the bounds.

    Raises:
      ValueError: observations have another shape.
    """
    shape = spec.observation.shape
    if shape != (len(self.low),):
      raise ValueError(
        f"network 'tile_coding' has bounds of {len(self.low)} coordinates, but observations have "
        f"shape {shape}; bind tile_coding.low and tile_coding.high"
      )
    tiles_each = self.tiles ** len(self.low)

    def active(observation: Array) -> Array:
      axes = (1,) * (observation.ndim - 1)
      # Bounds as [1, ..., D], of the observation's rank: JAX may be set not to promote it.
      low, high = (jnp.asarray(x, jnp.float32).reshape(*axes, -1) for x in (self.low, self.high))
      # In float32 whatever the parameters' dtype: the tile of a point must not depend on it.
      x = jnp.clip((jnp.asarray(observation, jnp.float32) - low) / (high - low), 0, 1)
      return active_tiles(x, self.tilings, self.tiles)

    def features(observation: Array, dtype: jnp.dtype) -> Array:
      return binary_features(active(observation), self.tilings, tiles_each, dtype)

    # Dense features serve every runtime; `active` is what the sparse form of `ac_lambda` takes.
    network = linear_network(features, self.tilings * tiles_each, policy_size, heads)
    return SparseNetwork(network.init, network.initial_state, network.unroll, active)

  def native(self) -> Native:
    """Returns the form in C++."""
    form = f"Tiles<{len(self.low)}, {self.tilings}, {self.tiles}>"
    return Native(Path(__file__).with_name("_features.h"), form, (*self.low, *self.high))

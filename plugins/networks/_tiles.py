"""Tile coding (Sutton and Barto 2018, section 9.5.4), without hashing."""

import jax.numpy as jnp
import numpy as np

from ...core.api import Array


def active_tiles(x: Array, tilings: int, tiles: int) -> Array:
  """Finds the active tile of every tiling.

  The unit interval of each coordinate spans `tiles - 1` tile widths. Tiling j is displaced by
  j (1, 3, 5, ...) / tilings of a tile, modulo one tile, so that every point of the unit cube lies
  in some tile of it.

  Args:
    x: [..., D], in [0, 1].
    tilings: how many.
    tiles: of each tiling, along each coordinate.

  Returns:
    [..., tilings] int32: tiling j has the numbers j tiles^D ... (j + 1) tiles^D - 1.
  """
  d = x.shape[-1]
  # Odd displacements differ between coordinates: equal ones would line tilings up on a diagonal.
  odd = 2 * np.arange(d) + 1
  offsets = np.arange(tilings)[:, None] * odd % tilings / tilings  # [tilings, D], in [0, 1)
  scaled = x[..., None, :] * (tiles - 1)  # plus an offset below 1: never beyond the last tile
  offsets = jnp.asarray(offsets, x.dtype).reshape(*(1,) * (x.ndim - 1), tilings, d)
  cell = jnp.floor(scaled + offsets).astype(jnp.int32)
  strides = jnp.asarray(tiles ** np.arange(d), jnp.int32)  # first coordinate fastest
  within = jnp.sum(cell * strides.reshape(*(1,) * x.ndim, d), axis=-1)
  first = jnp.arange(tilings, dtype=jnp.int32) * tiles**d
  return within + first.reshape(*(1,) * (x.ndim - 1), tilings)


def binary_features(active: Array, tilings: int, tiles_each: int, dtype: jnp.dtype) -> Array:
  """Makes binary features of indices, [..., tilings * tiles_each]: 1 where active, else 0.

  Args:
    active: [..., tilings], one index a tiling.
    tilings: how many.
    tiles_each: tiles of a tiling.
    dtype: of the result.
  """
  # Each index is compared with the tiles of its own tiling alone, which are all it can be.
  tile = jnp.arange(tilings * tiles_each, dtype=active.dtype).reshape(tilings, tiles_each)
  lit = active[..., None] == tile.reshape(*(1,) * (active.ndim - 1), tilings, tiles_each)
  return lit.astype(dtype).reshape(*active.shape[:-1], tilings * tiles_each)

"""The orthogonal initialiser, of matrix products alone."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from haiku.initializers import RandomNormal
from jax import Array

STEPS = 60  # singular values from 1e-8 on come to 1


@dataclasses.dataclass(frozen=True)
class Orthogonal:
  """Draws `scale` times a uniformly random matrix whose rows, or columns, are orthonormal.

  It is the polar factor of a normal matrix, by Newton and Schulz: X <- 1.5 X - 0.5 X X^T X (Higham
  2008, section 8.3). A QR decomposition gives the same distribution, but XLA's on CPU calls LAPACK,
  and those of several devices at a time may wait for each other for ever.
  """

  scale: float = 1.0

  def __call__(self, shape: Sequence[int], dtype: Any) -> Array:
    """Draws an array [*shape] within a Haiku transform; its rows are all axes but the last."""
    rows, columns = math.prod(shape[:-1]), shape[-1]
    x = RandomNormal()((rows, columns), dtype)
    # The lesser side first: x x^T is then the smaller of the two products.
    x = x if rows <= columns else x.T
    x = x / jnp.linalg.norm(x)  # of Frobenius: no singular value is above 1
    x = jax.lax.fori_loop(0, STEPS, lambda _, x: 1.5 * x - 0.5 * (x @ x.T) @ x, x)
    x = x if rows <= columns else x.T
    return self.scale * x.reshape(shape)

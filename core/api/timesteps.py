"""Timesteps in the dtypes of the spec, whatever those are that an environment returns.

Buffers and compiled programs are made for the dtypes of the first row and hold all later ones: a
reward that is the integer 0 at reset would else make 1 of the 1.5 that follow.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from .errors import UserError
from .types import Array, EnvSpec, TimeStep


def as_specified(
  timestep: TimeStep, spec: EnvSpec, asarray: Callable[[Any, Any], Array] = np.asarray
) -> TimeStep:
  """Casts a timestep: reward, discount to float32, `first` to bool, the observation as in `spec`.

  Args:
    timestep: [..., B, ...], as it comes from an environment: arrays, or lists of numbers.
    spec: of that environment; what JAX does not hold in 64 bits is taken in 32.
    asarray: `jnp.asarray` where the timestep is traced.

  Raises:
    UserError: observations are real numbers where the spec says integers, which would cut them off.
  """
  dtype = jax.dtypes.canonicalize_dtype(spec.observation.dtype)
  observation = asarray(timestep.observation, None)
  if np.issubdtype(observation.dtype, np.inexact) and not np.issubdtype(dtype, np.inexact):
    raise UserError(
      f"the environment's observations are {observation.dtype}, but its spec says "
      f"{spec.observation.dtype}, which would cut off their fractions: let the spec say "
      f"{observation.dtype}, or the environment return {spec.observation.dtype}."
    )
  return TimeStep(
    observation=asarray(observation, dtype),
    reward=asarray(timestep.reward, np.float32),
    discount=asarray(timestep.discount, np.float32),
    first=asarray(timestep.first, np.bool_),
  )

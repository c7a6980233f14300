"""Parts of batches and batches of the past: what inner updates and outer losses are taken on."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ...core.api import BATCH_AXES, LearnerState, Trajectory


def held_out(batch: Trajectory, share: float) -> tuple[Trajectory, Trajectory]:
  """Divides a batch [T+1, B] into what is learned from and what is held out, [T+1, B'] each.

  Args:
    batch: [T+1, B].
    share: of the trajectories that are held out, rounded down, but at least one.

  Raises:
    ValueError: nothing would be left to learn from.
  """
  size = batch.action.shape[1]
  inner = size - max(1, math.floor(share * size))
  if not inner:
    raise ValueError(
      f"outer_batch = 'held_out' divides the {size} trajectories of a batch: it needs two or more "
      "and a share below 1; write a greater train.num_envs, or fewer train.learner_devices"
    )
  return _part(batch, 0, inner), _part(batch, inner, size)


def drawn(state: LearnerState, past: Sequence[Trajectory], batch: Trajectory) -> Trajectory:
  """Draws one of the past batches; gives `batch` where there is none yet.

  Args:
    state: whose key and number of updates say which.
    past: the last batches, newest first, [T+1, B] each; as many are there as updates were made.
    batch: the new one, [T+1, B].
  """
  there = jnp.minimum(state.step, len(past))
  key = jax.random.fold_in(state.key, state.step)
  which = jax.random.randint(key, (), 0, jnp.maximum(there, 1))
  one = lambda now, *past: jnp.where(there > 0, jnp.stack(past)[which], now)
  return jax.tree.map(one, batch, *past)


def _part(batch: Trajectory, start: int, stop: int) -> Trajectory:
  """Returns the trajectories from `start` to `stop` of a batch, [T+1, stop - start, ...]."""
  cut = lambda axis: lambda x: jax.lax.slice_in_dim(x, start, stop, axis=axis)
  return Trajectory(*(jax.tree.map(cut(n), x) for n, x in zip(BATCH_AXES, batch, strict=True)))

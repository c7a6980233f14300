"""Parts of batches and batches of the past: what inner updates and outer losses are taken on."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ...core.api import BATCH_AXES, LearnerState, Trajectory


def held_out(batch: Trajectory, every: int) -> tuple[Trajectory, Trajectory]:
  """Divides a batch [T+1, B] into what is learned from and what is held out, [T+1, B'] each.

  Args:
    batch: [T+1, B].
    every: one in so many trajectories is held out. Not the last of the batch: devices, which have
      their shares one after the other, then hold out the same ones however many there are, as
      `every` divides each share.

  Raises:
    ValueError: `every` does not divide the batch, or nothing would be left to learn from.
  """
  size = batch.action.shape[1]
  # NumPy, so that the numbers are constants of the trace: shapes must not depend on traced values.
  out = np.arange(every - 1, size, every)
  rest = np.delete(np.arange(size), out)
  if size % every or not rest.size:
    raise ValueError(
      f"outer_batch = 'held_out' holds out one in {every} of the {size} trajectories of a batch, "
      "or of a device's share of it: held_out must divide that number, and be 2 or more"
    )
  return _some(batch, rest), _some(batch, out)


def drawn(state: LearnerState, past: Sequence[Trajectory], batch: Trajectory) -> Trajectory:
  """Draws one of the past batches; gives `batch` where there is none yet.

  Args:
    state: whose key and number of updates say which.
    past: the last batches, newest first, [T+1, B] each; as many are there as updates were made.
    batch: the new one, [T+1, B].
  """
  # Slots that no update has filled yet hold zeros; only the first `there` are drawn from.
  there = jnp.minimum(state.step, len(past))
  # The draw follows from the state alone, so that `_cycle` can repeat it.
  key = jax.random.fold_in(state.key, state.step)
  which = jax.random.randint(key, (), 0, jnp.maximum(there, 1))
  one = lambda now, *past: jnp.where(there > 0, jnp.stack(past)[which], now)
  return jax.tree.map(one, batch, *past)


def _some(batch: Trajectory, which: np.ndarray) -> Trajectory:
  """Returns some trajectories [B'] of a batch, [T+1, B', ...]."""
  # The batch axis is 1 where there is time, and 0 of the recurrent state: see BATCH_AXES.
  take = lambda axis: lambda x: jnp.take(x, which, axis=axis)
  return Trajectory(*(jax.tree.map(take(n), x) for n, x in zip(BATCH_AXES, batch, strict=True)))

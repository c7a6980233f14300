"""A run's batch split over devices: what each of them draws, counts and learns of its share."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..agent.functions import Functions
from ..api.online import RunState
from ..api.types import Array, PyTree
from ..engine.batches import accumulate

BATCH = "batch"  # the axis of devices that share the batch of a run


class Share(NamedTuple):
  """How the batch of each run, B trajectories, is divided."""

  devices: int = 1
  micro_batch: int | None = None  # trajectories a device takes at a time; None: its whole share

  def of(self, fns: Functions, num_envs: int) -> Functions:
    """Returns the functions of an agent, for one device's share of `num_envs` trajectories."""
    # `Functions` takes whole batches, unshared, unless it is told otherwise.
    if self == Share():
      return fns
    size = self.micro_batch or num_envs // self.devices
    axis = BATCH if self.devices > 1 else None
    rows = functools.partial(own_rows, self.devices) if self.devices > 1 else fns.rows
    return fns.sharing(functools.partial(accumulate, micro_batch=size, axis=axis), rows)

  def mean(self, x: Array) -> Array:
    """Returns the mean of a number [] over the devices that share a batch."""
    return x if self.devices == 1 else jax.lax.pmean(x, BATCH)

  def counted(self, before: RunState, after: RunState) -> RunState:
    """Returns `after` with episodes and env steps counted over all devices that share the batch.

    Args:
      before: the run before its trajectory, with counts [] that are equal on all devices.
      after: the run after it; this device has counted in its own environments alone.
    """
    if self.devices == 1:
      return after
    # Once a trajectory: the devices wait for each other at every sum.
    # Increments are added up and not totals, which all devices have in common.
    total = lambda x, old: old + jax.lax.psum(x - old, BATCH)
    return after._replace(
      finished=total(after.finished, before.finished),
      env_steps=total(after.env_steps, before.env_steps),
    )


def own_rows(devices: int, draw: Callable[[Array], PyTree], policies: Array) -> PyTree:
  """Draws for the whole batch, as one device would, and keeps what is of this device.

  So what is drawn does not depend on the number of devices. Rows of others stand empty: a draw
  depends on the shape of all, and on the values of its own row.

  Args:
    devices: that share the batch.
    draw: from policies of the batch [Pa, B, A] to a tree [B, ...].
    policies: of the share, [Pa, B / devices, A].

  Returns:
    A tree [B / devices, ...].
  """
  size = policies.shape[1]
  # Device d has the rows from d size on; of policies the batch is axis 1, of what is drawn axis 0.
  start = jax.lax.axis_index(BATCH) * size
  whole = jnp.zeros((len(policies), devices * size, *policies.shape[2:]), policies.dtype)
  whole = jax.lax.dynamic_update_slice_in_dim(whole, policies, start, axis=1)
  return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, size), draw(whole))

"""How a batch is divided over devices and micro-batches, and what its parts give is added up.

A loss is a sum over the batch, so gradients and metagradients are summed over the parts, and the
result does not depend on how many there are. `accumulate` reduces after each derivative is taken:
nobody ever differentiates through a collective.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from ..api.errors import UserError
from ..api.types import BATCH_AXES, Array, PyTree, Trajectory

AXIS = "learners"


def batch_specs(
  trajectory: Trajectory, over: str = AXIS, leading: tuple[str, ...] = ()
) -> Trajectory:
  """PartitionSpecs that split a trajectory's batch axis over the learners.

  Args:
    trajectory: [*leading, T+1, B, ...].
    over: the axis of the mesh that shares the batch.
    leading: the axes of the mesh that share each leading axis.
  """

  def spec(axis, subtree):
    # `axis` counts from behind the leading axes: it is the place of B in a field of one trajectory.
    return jax.tree.map(lambda _: P(*leading, *[None] * axis, over), subtree)

  return Trajectory(*map(spec, BATCH_AXES, trajectory))


def state_specs(state: PyTree, over: str = AXIS, leading: tuple[str, ...] = ()) -> PyTree:
  """PartitionSpecs of a learner state: replicated, but for trajectories inside it.

  Args:
    state: [*leading, ...].
    over: the axis of the mesh that shares the batches, as in `batch_specs`.
    leading: the axes of the mesh that share each leading axis.
  """

  def is_trajectory(x):
    return isinstance(x, Trajectory)

  # A batch that a meta-optimiser keeps stays where it was split to: no device has all of it.
  return jax.tree.map(
    lambda x: batch_specs(x, over, leading) if is_trajectory(x) else P(*leading),
    state,
    is_leaf=is_trajectory,
  )


def part(trajectory: Trajectory, number: Array | int, size: int) -> Trajectory:
  """Returns `size` trajectories of a batch [T+1, B], the `number`th so many: [T+1, size]."""

  def one(axis, subtree):
    take = lambda x: jax.lax.dynamic_slice_in_dim(x, number * size, size, axis)
    return jax.tree.map(take, subtree)

  return Trajectory(*map(one, BATCH_AXES, trajectory))


def parts(batch: Trajectory, micro_batch: int) -> int:
  """Returns how many equal parts a batch is divided into: as few as `micro_batch` lets be.

  Args:
    batch: [T+1, B], or a part of such a batch, of fewer trajectories.
    micro_batch: trajectories of a part, at most.

  Raises:
    UserError: the batch is empty.
  """
  size = batch.action.shape[1]
  if not size:
    raise UserError(
      "the meta-optimiser gives fns.accumulate an empty part of a batch: perhaps a learner device "
      "has too few trajectories for it (train.num_envs, train.learner_devices)."
    )
  # Equal parts, whose means `accumulate` averages with equal weights; k = size always divides.
  return next(k for k in range(1, size + 1) if size % k == 0 and size // k <= micro_batch)


def accumulate(f, batch: Trajectory, *stacked, micro_batch: int, axis: str | None = AXIS):
  """Reduces the results of `f` over micro-batches and devices: see `AgentFns.accumulate`.

  Args:
    f: from a part of the batch, and slices, to (sums, means, stacked).
    batch: of this device, [T+1, B].
    *stacked: trees [K, ...].
    micro_batch: trajectories of a part, at most.
    axis: of the devices that share the batch; None where there is one.

  Returns:
    The sums and the means, in the shapes [...] that `f` gives, and the stacked results, [K, ...].

  Raises:
    UserError: the batch is empty, or `stacked` is of another batch.
  """
  micro_batches = parts(batch, micro_batch)
  for x in jax.tree.leaves(stacked):
    if len(x) != micro_batches:
      raise UserError(
        f"the meta-optimiser gives fns.accumulate a batch of {micro_batches} micro-batches and "
        f"results stacked over {len(x)}: give it those of the same batch."
      )
  if micro_batches == 1:
    sums, means, out = f(batch, *[jax.tree.map(lambda x: x[0], x) for x in stacked])
    out = jax.tree.map(lambda x: x[None], out)
  else:
    # Parts are cut out one by one: an array of all of them, in their order, would be a copy of the
    # batch for every derivative that is taken of it.
    size = batch.action.shape[1] // micro_batches
    taken = lambda number, stacked: f(part(batch, number, size), *stacked)
    # Totals have the shapes that `f` gives, which only tracing it tells.
    sums, means, _ = jax.eval_shape(taken, 0, jax.tree.map(lambda x: x[0], stacked))
    full = lambda number: lambda x: jnp.full(x.shape, number, x.dtype)
    # A maximum begins at -inf: at 0 it would hide that all parts have given less.
    nothing = jax.tree.map(full(0), sums), _where_greatest(full(-jnp.inf), full(0), means)

    def body(totals, of_part):
      sums, means, out = taken(*of_part)
      sums = jax.tree.map(jnp.add, totals[0], sums)
      return (sums, _where_greatest(jnp.maximum, jnp.add, totals[1], means)), out

    (sums, means), out = jax.lax.scan(body, nothing, (jnp.arange(micro_batches), stacked))
    means = _where_greatest(lambda x: x, lambda x: x / micro_batches, means)
  if axis is None:
    return sums, means, out
  # Over devices once, at the end: at every micro-batch they would wait for each other.
  of_devices = (functools.partial(f, axis_name=axis) for f in (jax.lax.pmax, jax.lax.pmean))
  return jax.lax.psum(sums, axis), _where_greatest(*of_devices, means), out


def _where_greatest(greatest, other, tree: PyTree, *rest: PyTree) -> PyTree:
  """Maps metrics by `greatest` where the name says that one is a maximum, else by `other`."""

  def one(path, *leaves):
    key = getattr(path[-1], "key", "") if path else ""
    return (greatest if str(key).endswith("/max") else other)(*leaves)

  return jax.tree_util.tree_map_with_path(one, tree, *rest)


def micro_batches_of(batch_size: int, devices: int, micro_batch: int | None) -> int:
  """Returns how many micro-batches each of so many learner devices takes of a batch.

  Raises:
    UserError: the batch cannot be divided so.
  """
  share, rest = divmod(batch_size, devices)
  if rest:
    raise UserError(
      f"a batch of {batch_size} trajectories (train.num_envs) is not divisible by "
      f"{devices} learner devices; choose a multiple of {devices}."
    )
  if micro_batch is not None and share % micro_batch:
    raise UserError(
      f"train.micro_batch = {micro_batch} does not divide the {share} trajectories that each of "
      f"{devices} learner devices gets of a batch of {batch_size} "
      "(where it is None, on a CPU it is train.cpu_micro_batch)."
    )
  return share // micro_batch if micro_batch else 1

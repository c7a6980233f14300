"""The learner: one compiled update, mapped over devices.

Mapping lives here and nowhere else. `shard_map` over a 1-d mesh, state replicated and batch split
as `pmap` would; gradients and metagradients are summed over devices, as the loss is a sum over the
batch, so the result does not depend on the number of devices. The meta-optimiser never
differentiates through a collective: `accumulate` reduces after each derivative is taken.
"""

import functools
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ..agent.functions import Functions
from ..agent.update import describe, first_state, guarded_step, suspects, trajectory_shapes
from ..api import checks
from ..api.contracts import phases_of
from ..api.errors import NonFiniteError, UserError
from ..api.failures import check_order
from ..api.types import (
  BATCH_AXES,
  ActorParams,
  Array,
  Described,
  Device,
  LearnerState,
  Metrics,
  PyTree,
  TimeStep,
  Trajectory,
)

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
    return jax.tree.map(lambda _: P(*leading, *[None] * axis, over), subtree)

  return Trajectory(*map(spec, BATCH_AXES, trajectory))


def state_specs(state: PyTree, over: str = AXIS, leading: tuple[str, ...] = ()) -> PyTree:
  """PartitionSpecs of a learner state: replicated, but for trajectories inside it.

  Args:
    state: [*leading, ...].
    over: see `batch_specs`; leading, too.
    leading: likewise.
  """

  def is_trajectory(x):
    return isinstance(x, Trajectory)

  return jax.tree.map(
    lambda x: batch_specs(x, over, leading) if is_trajectory(x) else P(*leading),
    state,
    is_leaf=is_trajectory,
  )


def split(trajectory: Trajectory, micro_batches: int) -> Trajectory:
  """Splits a trajectory into K micro-batches: arrays [..., B, ...] -> [K, ..., B/K, ...]."""

  def one(axis, subtree):
    def reshape(x):
      shape = (*x.shape[:axis], micro_batches, -1, *x.shape[axis + 1 :])
      return jnp.moveaxis(x.reshape(shape), axis, 0)

    return jax.tree.map(reshape, subtree)

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
    slices = (split(batch, micro_batches), *stacked)
    first = jax.tree.map(lambda x: x[0], slices)
    sums, means, _ = jax.eval_shape(f, *first)
    full = lambda number: lambda x: jnp.full(x.shape, number, x.dtype)
    # A maximum begins at -inf: at 0 it would hide that all parts have given less.
    nothing = jax.tree.map(full(0), sums), _where_greatest(full(-jnp.inf), full(0), means)

    def body(totals, slices):
      sums, means, out = f(*slices)
      sums = jax.tree.map(jnp.add, totals[0], sums)
      return (sums, _where_greatest(jnp.maximum, jnp.add, totals[1], means)), out

    (sums, means), out = jax.lax.scan(body, nothing, slices)
    means = _where_greatest(lambda x: x, lambda x: x / micro_batches, means)
  if axis is None:
    return sums, means, out
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


class Learner:
  """Initialises, updates and publishes the state of one agent."""

  def __init__(
    self,
    fns: Functions,
    devices: Sequence[Device],
    batch_size: int,
    unroll_length: int,
    micro_batch: int | None = None,
    env: str = "train.env",
  ):
    """Prepares the update; compiled at its first call.

    Args:
      fns: of the agent.
      devices: those the batch is split over.
      batch_size: B, trajectories an update.
      unroll_length: T.
      micro_batch: trajectories a device takes at a time; None takes its whole share. On CPU, one
        whose activations stay in cache is several times faster; memory shrinks with it everywhere.
      env: where timesteps come from, for messages.

    Raises:
      UserError: the batch cannot be divided so.
    """
    micro_batches = micro_batches_of(batch_size, len(devices), micro_batch)
    self.mesh = Mesh(devices, (AXIS,))
    self._env = env
    self._batch_size, self._unroll_length = batch_size, unroll_length
    self.phases = phases_of(fns.metaopt)
    share = batch_size // len(devices)
    at_once = functools.partial(accumulate, micro_batch=share // micro_batches)
    self._fns = fns.sharing(at_once)

  def init(self, key: Array, timestep: TimeStep) -> LearnerState:
    """Returns the first state, replicated over the learner devices.

    Args:
      key: PRNG key.
      timestep: shapes and dtypes of one step, [B', ...] of any B'.

    Raises:
      UserError: the meta-optimiser does not take such batches.
    """
    # An actor's first pool may hold a part of the environments only.
    timestep = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((self._batch_size, *x.shape[1:]), x.dtype), timestep
    )
    batch = trajectory_shapes(self._fns, timestep, self._unroll_length)

    def init(key):
      params_key, _ = jax.random.split(key)  # the actors' key is `fold_in(key, 1)`
      return first_state(self._fns, params_key, jax.random.fold_in(key, 2), batch)

    specs = state_specs(jax.eval_shape(init, key))
    shardings = jax.tree.map(lambda spec: NamedSharding(self.mesh, spec), specs)
    self._build_update(specs, batch_specs(batch))
    self._batch = jax.tree.map(
      lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
      *(batch, self._batch_shardings),
    )
    return jax.jit(init, out_shardings=shardings)(key)

  def trace(self, state: LearnerState) -> None:
    """Traces the update of a batch [T+1, B]: what a plugin refuses is known before files are left.

    The first update is compiled from this trace.

    Raises:
      UserError: a loss term does not go with the agent's actions; a plugin gives what it must not.
    """
    for phase in range(self.phases):
      _, metrics = jax.eval_shape(self._update[phase], state, self._batch)
    jax.eval_shape(self._copy, state)
    checks.description(
      checks.who(self._fns.metaopt), jax.eval_shape(self._describe, state), metrics
    )

  def put(self, trajectory: Trajectory) -> Trajectory:
    """Moves a trajectory [T+1, B, ...] from the host to the learner devices.

    Of a job of several processes each gives its own share of the B trajectories.
    """
    return jax.make_array_from_process_local_data(self._batch_shardings, trajectory)

  def update(
    self, state: LearnerState, batch: Trajectory, phase: int = 0
  ) -> tuple[LearnerState, Metrics]:
    """Makes one update on a batch [T+1, B]; `state` is donated. Metrics are [], on the device.

    Update k of a run is of phase k mod `phases`.
    """
    return self._update[phase](state, batch)

  def describe(self, state: LearnerState) -> Described:
    """Returns what the meta-optimiser logs of a state: [] each, or histograms."""
    return self._describe(state)

  def compile(self, state: LearnerState, batch: Trajectory, phase: int = 0) -> jax.stages.Compiled:
    """Compiles the update of a batch [T+1, B], for its memory and cost analysis."""
    return self._update[phase].lower(state, batch).compile()

  def actor_params(
    self, state: LearnerState, devices: Iterable[Device]
  ) -> dict[Device, ActorParams]:
    """Returns copies, by device, of what an actor needs: parameters, and discounts [P + E + C].

    They stay good when `state` is donated later.
    """
    # The state is replicated over the mesh, so this process has a whole copy: nothing is sent.
    copy = jax.tree.map(lambda x: x.addressable_data(0), self._copy(state))
    return {device: jax.device_put(copy, device) for device in devices}

  def check(self, metrics: Metrics) -> None:
    """Looks for a number that was not finite in any update so far.

    Args:
      metrics: of the latest update, [] each, on the device or the host.

    Raises:
      NonFiniteError: there was one; names what it was in, and the update.
    """
    failure = int(jax.device_get(metrics["failure"]))
    if failure >= 0:
      names = check_order([name for name in metrics if name not in ("failure", "updates")])
      names = suspects(self._env, self._fns.agent) + names
      good = int(jax.device_get(metrics["updates"]))
      raise NonFiniteError(
        f"'{names[failure]}' was not finite in update {good + 1}; "
        "the state before that update is kept."
      )

  def _build_update(self, state_spec: PyTree, batch_spec: PyTree) -> None:
    mapped = functools.partial(
      jax.shard_map,
      mesh=self.mesh,
      in_specs=(state_spec, batch_spec),
      out_specs=(state_spec, P()),
      check_vma=False,
    )
    steps = [functools.partial(self._step, phase) for phase in range(self.phases)]
    # A program a phase: `phase` is Python's, so that each does only what is its own.
    self._update = [jax.jit(mapped(step), donate_argnums=0) for step in steps]
    self._batch_shardings = jax.tree.map(lambda spec: NamedSharding(self.mesh, spec), batch_spec)

    def published(state):
      gamma = self._fns.gamma(self._fns.values(state.meta_state))
      # Copies: the next update is given the memory of this state, and writes over it.
      return jax.tree.map(jnp.copy, ActorParams(state.params, gamma))

    self._copy = jax.jit(published)
    self._describe = jax.jit(functools.partial(describe, self._fns.metaopt))

  def _step(self, phase: int, state: LearnerState, batch: Trajectory):
    mean = lambda x: jax.lax.pmean(x, AXIS)
    state, metrics = guarded_step(self._fns, state, batch, mean, phase)
    return state, metrics | {"failure": state.failure, "updates": state.step}

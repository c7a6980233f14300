"""The learner: one compiled update, mapped over devices.

Mapping lives here and nowhere else. `shard_map` over a 1-d mesh, state replicated and batch split
as `pmap` would; gradients and metagradients are summed over devices, as the loss is a sum over the
batch, so the result does not depend on the number of devices. The meta-optimiser never
differentiates through a collective: `accumulate` reduces after each derivative is taken.
"""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from . import checks
from .agent import Agent, BuiltAgent
from .errors import NonFiniteError, UserError, plugin_mistakes
from .objective import NOT_FINITE
from .types import (
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
INPUTS = ("observation", "reward", "discount")  # of a TimeStep, what may be not finite
CHECK_ORDER = ("loss/", "grad_norm", "outer_loss/", "metagrad/", "metagrad_norm")


def batch_specs(trajectory: Trajectory) -> Trajectory:
  """PartitionSpecs that split a trajectory's batch axis over the learners."""

  def spec(axis, subtree):
    return jax.tree.map(lambda _: P(*[None] * axis, AXIS), subtree)

  return Trajectory(*map(spec, BATCH_AXES, trajectory))


def state_specs(state: PyTree) -> PyTree:
  """PartitionSpecs of a learner state: replicated, but for trajectories inside it."""

  def is_trajectory(x):
    return isinstance(x, Trajectory)

  return jax.tree.map(
    lambda x: batch_specs(x) if is_trajectory(x) else P(), state, is_leaf=is_trajectory
  )


def split(trajectory: Trajectory, micro_batches: int) -> Trajectory:
  """[..., B, ...] -> [K, ..., B/K, ...]."""

  def one(axis, subtree):
    def reshape(x):
      shape = (*x.shape[:axis], micro_batches, -1, *x.shape[axis + 1 :])
      return jnp.moveaxis(x.reshape(shape), axis, 0)

    return jax.tree.map(reshape, subtree)

  return Trajectory(*map(one, BATCH_AXES, trajectory))


def parts(batch: Trajectory, micro_batch: int) -> int:
  """The least number of equal parts of a batch, or of a part of one, of at most `micro_batch` each.

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


def accumulate(f, batch: Trajectory, *stacked, micro_batch: int):
  """Sums, means and stacked results of `f` over micro-batches and devices (see AgentFns)."""
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
    nothing = jax.tree.map(full(0), sums), _where_greatest(full(-jnp.inf), full(0), means)

    def body(totals, slices):
      sums, means, out = f(*slices)
      sums = jax.tree.map(jnp.add, totals[0], sums)
      return (sums, _where_greatest(jnp.maximum, jnp.add, totals[1], means)), out

    (sums, means), out = jax.lax.scan(body, nothing, slices)
    means = _where_greatest(lambda x: x, lambda x: x / micro_batches, means)
  of_devices = (functools.partial(f, axis_name=AXIS) for f in (jax.lax.pmax, jax.lax.pmean))
  return jax.lax.psum(sums, AXIS), _where_greatest(*of_devices, means), out


def _where_greatest(greatest, other, tree: PyTree, *rest: PyTree) -> PyTree:
  """Maps metrics by `greatest` where the name says that one is a maximum, else by `other`."""

  def one(path, *leaves):
    key = getattr(path[-1], "key", "") if path else ""
    return (greatest if str(key).endswith("/max") else other)(*leaves)

  return jax.tree_util.tree_map_with_path(one, tree, *rest)


def check_order(names: Sequence[str]) -> list[str]:
  """The order in which metrics are checked: causes before what they poison."""

  def rank(name):
    ranks = [i for i, prefix in enumerate(CHECK_ORDER) if name.startswith(prefix)]
    total = name.startswith(("loss/total", "outer_loss/total"))
    return (ranks[0] if ranks else len(CHECK_ORDER), total, name)

  return sorted(names, key=rank)


def not_finite(timestep: TimeStep) -> Array:
  """Which of `INPUTS` hold a number that is not finite: bool [3]."""
  return jnp.stack([jnp.any(~jnp.isfinite(getattr(timestep, name))) for name in INPUTS])


def without_flags(metrics: Metrics) -> Metrics:
  """The metrics that are logged: not those by which losses say what made them not finite."""
  return {name: x for name, x in metrics.items() if not name.startswith(NOT_FINITE)}


def culprits(env: str, agent: Agent) -> list[str]:
  """What may have made a metric not finite, in order, for messages."""
  inputs = [f"{name} of {env}" for name in INPUTS]
  return [
    *inputs,
    f"output of {checks.who(agent.network)}",
    f"targets of {checks.who(agent.corrector)}",
  ]


def first_failure(metrics: Metrics, bad_inputs: Array) -> Array:
  """What made a metric not finite: an index in (*culprits, *check_order(metrics)); int32 [].

  -1 where every metric is finite: the agent may then leave out what is wrong with its inputs.

  Args:
    metrics: [], with the flags of losses among them.
    bad_inputs: see `not_finite`.
  """
  logged = without_flags(metrics)
  flags = [
    jnp.any(jnp.array([x > 0 for name, x in metrics.items() if name.startswith(flag)]))
    for flag in NOT_FINITE
  ]
  order = check_order(list(logged))
  bad = ~jnp.isfinite(jnp.stack([jnp.asarray(logged[name], jnp.float32) for name in order]))
  causes = jnp.concatenate([bad_inputs, jnp.stack(flags), bad])
  return jnp.where(jnp.any(bad), jnp.argmax(causes), -1).astype(jnp.int32)


def micro_batches_of(batch_size: int, devices: int, micro_batch: int | None) -> int:
  """How many micro-batches each of so many learner devices takes of a batch.

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
    agent: BuiltAgent,
    devices: Sequence[Device],
    batch_size: int,
    unroll_length: int,
    total_updates: int,
    micro_batch: int | None = None,
    env: str = "train.env",
  ):
    """Prepares the update; compiled at its first call.

    Args:
      agent: the agent.
      devices: those the batch is split over.
      batch_size: B, trajectories an update.
      unroll_length: T.
      total_updates: after so many the learning rate has reached its end.
      micro_batch: trajectories a device takes at a time; None takes its whole share. On CPU, one
        whose activations stay in cache is several times faster; memory shrinks with it everywhere.
      env: where timesteps come from, for messages.

    Raises:
      UserError: the batch cannot be divided so.
    """
    micro_batches = micro_batches_of(batch_size, len(devices), micro_batch)
    self.mesh = Mesh(devices, (AXIS,))
    self._agent, self._env = agent, env
    self._metaopt = agent.agent.metaopt
    self._who = checks.who(self._metaopt)
    self._batch_size, self._unroll_length = batch_size, unroll_length
    share = batch_size // len(devices)
    at_once = functools.partial(accumulate, micro_batch=share // micro_batches)
    self._fns = agent.fns(total_updates, at_once)

  def init(self, key: Array, timestep: TimeStep) -> LearnerState:
    """The first state, replicated over the learner devices.

    Args:
      key: PRNG key.
      timestep: shapes and dtypes of one step; its batch axis may have any size.

    Raises:
      UserError: the meta-optimiser does not take such batches.
    """
    batch = self._batch_shapes(timestep)

    def init(key):
      params_key, _ = jax.random.split(key)
      key = jax.random.fold_in(key, 2)  # the actors' is that of 1
      params = self._agent.network.init(params_key)
      opt_state = self._agent.init_optimizer(params)
      zero = jnp.zeros((), jnp.int32)
      state = LearnerState(params, opt_state, (), zero, key, zero - 1)
      with plugin_mistakes():
        meta_state = self._metaopt.init(self._fns, state, batch)
      return state._replace(meta_state=checks.arrays(self._who, "its meta state", meta_state))

    specs = state_specs(jax.eval_shape(init, key))
    shardings = jax.tree.map(lambda spec: NamedSharding(self.mesh, spec), specs)
    self._build_update(specs, batch_specs(batch))
    self._batch = jax.tree.map(
      lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
      *(batch, self._batch_shardings),
    )
    return jax.jit(init, out_shardings=shardings)(key)

  def trace(self, state: LearnerState) -> None:
    """Traces the update, so that what a plugin refuses in it is known before a run leaves files.

    The first update is compiled from this trace.

    Raises:
      UserError: a loss term does not go with the agent's actions; a plugin gives what it must not.
    """
    _, metrics = jax.eval_shape(self._update, state, self._batch)
    jax.eval_shape(self._copy, state)
    checks.description(self._who, jax.eval_shape(self._describe, state), metrics)

  def put(self, trajectory: Trajectory) -> Trajectory:
    """Moves a trajectory [T+1, B, ...] from the host to the learner devices.

    Of a job of P processes each gives its own share, [T+1, B / P, ...].
    """
    return jax.make_array_from_process_local_data(self._batch_shardings, trajectory)

  def update(self, state: LearnerState, batch: Trajectory) -> tuple[LearnerState, Metrics]:
    """One update; `state` is donated. Metrics are scalars on the device."""
    return self._update(state, batch)

  def describe(self, state: LearnerState) -> Described:
    """The meta-optimiser's metrics of a state, for a row that is about to be logged."""
    return self._describe(state)

  def compile(self, state: LearnerState, batch: Trajectory) -> jax.stages.Compiled:
    """The compiled update, for its memory and cost analysis."""
    return self._update.lower(state, batch).compile()

  def actor_params(
    self, state: LearnerState, devices: Iterable[Device]
  ) -> dict[Device, ActorParams]:
    """Copies, by device, of what an actor needs; safe when `state` is donated later."""
    copy = jax.tree.map(lambda x: x.addressable_data(0), self._copy(state))
    return {device: jax.device_put(copy, device) for device in devices}

  def check(self, metrics: Metrics) -> None:
    """Raises NonFiniteError if any update so far met a number that was not finite.

    `metrics` are of the latest update, on the device or the host.
    """
    failure = int(jax.device_get(metrics["failure"]))
    if failure >= 0:
      names = check_order([name for name in metrics if name not in ("failure", "updates")])
      names = culprits(self._env, self._agent.agent) + names
      good = int(jax.device_get(metrics["updates"]))
      raise NonFiniteError(
        f"'{names[failure]}' was not finite in update {good + 1}; "
        "the state before that update is kept."
      )

  def _batch_shapes(self, timestep: TimeStep) -> Trajectory:
    t, b = self._unroll_length, self._batch_size

    def shape(x, time):
      return jax.ShapeDtypeStruct((time, *x.shape), x.dtype)

    # An actor's first pool may hold a part of the environments only.
    timestep = jax.tree.map(lambda x: jax.ShapeDtypeStruct((b, *x.shape[1:]), x.dtype), timestep)
    core_state = jax.eval_shape(lambda: self._agent.network.initial_state(b))
    params = jax.eval_shape(self._agent.network.init, jax.random.key(0))
    gamma = jnp.zeros(self._agent.behaviour.acting_heads)
    key, step = jax.random.key(0), jnp.zeros((), jnp.int32)
    sample, mu, _ = jax.eval_shape(
      self._agent.act, ActorParams(params, gamma), timestep, core_state, key, step
    )
    arrays: dict[str, Any] = {
      "action": shape(sample, t),
      "behaviour": shape(mu, t),
      "params_version": jax.ShapeDtypeStruct((t, b), jnp.int32),
    }
    return Trajectory(
      timestep=jax.tree.map(lambda x: shape(x, t + 1), timestep),
      core_state=core_state,
      **arrays,
    )

  def _build_update(self, state_spec: PyTree, batch_spec: PyTree) -> None:
    mapped = jax.shard_map(
      self._guarded_step,
      mesh=self.mesh,
      in_specs=(state_spec, batch_spec),
      out_specs=(state_spec, P()),
      check_vma=False,
    )
    self._update = jax.jit(mapped, donate_argnums=0)
    self._batch_shardings = jax.tree.map(lambda spec: NamedSharding(self.mesh, spec), batch_spec)

    def published(state):
      values = self._metaopt.values(self._fns, state.meta_state)
      gamma = self._fns.gamma(checks.values(self._who, values, self._fns.tunable_shapes))
      return jax.tree.map(jnp.copy, ActorParams(state.params, gamma))

    self._copy = jax.jit(published)
    describe = self._metaopt.describe
    self._describe = jax.jit(lambda state: checks.description(self._who, describe(state)))

  def _guarded_step(self, state: LearnerState, batch: Trajectory):
    """One step of the meta-optimiser, kept only if every metric of it is finite."""
    new, metrics = checks.updated(self._who, self._metaopt.step(self._fns, state, batch), state)
    metrics["param_norm"] = optax.tree.norm(new.params)
    lag = jnp.mean((state.step - batch.params_version).astype(jnp.float32))
    metrics["policy_lag"] = jax.lax.pmean(lag, AXIS)
    bad_inputs = jax.lax.pmax(not_finite(batch.timestep).astype(jnp.int32), AXIS) > 0
    failure = jnp.where(state.failure >= 0, state.failure, first_failure(metrics, bad_inputs))
    new = new._replace(step=state.step + 1)
    new = jax.tree.map(lambda new, old: jnp.where(failure < 0, new, old), new, state)
    return new._replace(failure=failure), without_flags(metrics) | {
      "failure": failure,
      "updates": new.step,
    }

"""The learner: one compiled update, mapped over devices.

It is a `shard_map` over a 1-d mesh, state replicated and batch split as `pmap` would.
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
from ..api.errors import NonFiniteError
from ..api.failures import check_order
from ..api.types import (
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
from .batches import AXIS, accumulate, batch_specs, micro_batches_of, state_specs


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

    # All of the state is replicated but batches within it: its structure says where there are any.
    specs = state_specs(jax.eval_shape(init, key))
    shardings = jax.tree.map(lambda spec: NamedSharding(self.mesh, spec), specs)
    self._build_update(specs, batch_specs(batch))
    # Sharded as real batches will be, or `trace` would trace another program than `update` calls.
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
    # These ask the meta-optimiser for its values and its description, which it may get wrong.
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
    # The host waits here for the update: whoever wants to go on meanwhile asks of an earlier one.
    failure = int(jax.device_get(metrics["failure"]))
    if failure >= 0:
      # In the order by which `first_failure` numbers them, before core added these two metrics.
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
      # With this check on, JAX itself sums a derivative by replicated parameters over the devices,
      # and the sum that `accumulate` takes would count it once for each. The check also refuses
      # carries of loops that begin as constants and come to vary, as totals of micro-batches do.
      check_vma=False,
    )
    steps = [functools.partial(self._step, phase) for phase in range(self.phases)]
    # A program a phase: `phase` is Python's, so that each does only what is its own. The state is
    # donated: the new one takes its memory, and need not lie beside it.
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
    # For `check`, which needs no other part of the state: this one is soon donated.
    return state, metrics | {"failure": state.failure, "updates": state.step}

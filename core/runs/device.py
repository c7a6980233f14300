"""Independent runs as an axis: R runs act, step and learn on the device, no host in the loop.

Every run has its own seed, settings, environments, parameters and traces; one compiled program
serves all. Runs are split over devices and there taken a chunk at a time, time innermost, so that
what a chunk carries stays in the cache. Where there are more devices than runs, several share the
batch of each. A run that has finished or diverged is frozen; a chunk of such runs costs nothing.
Where an agent has a form in C++, that advances runs on a CPU, see `api.native`.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ..agent.functions import Functions
from ..api.contracts import FunctionalEnvironment
from ..api.native import Advance, AdvancesNatively, Parts
from ..api.online import Ends, FusesIterations, Iteration, RunState, unless_ended
from ..api.timesteps import as_specified
from ..api.types import Array, Device, Metrics, PyTree
from ..engine.environments import functional
from .iteration import Waited, first_run, iterate
from .layout import AXIS, CPU_CHUNK, chunked, layout, merged, specs
from .population import inherited
from .settings import Members, check, rows_of, with_settings
from .share import BATCH

NATIVE_STEPS = 16  # steps of a run that one iteration of machine code makes


class Runs:
  """R independent runs of one agent in a functional environment."""

  env_seeds: tuple[int, ...] = ()  # of pools on the host
  form = ""  # what advances them, where there is more than one that could
  waited = Waited()  # nobody waits for environments that are part of the program

  def __init__(
    self,
    members: Members,
    env: FunctionalEnvironment,
    devices: Sequence[Device],
    fuse: bool = True,
    chunk: int | None = None,
    micro_batch: int | None = None,
    native: bool = False,
  ):
    """Prepares the compiled program.

    Args:
      members: the runs; settings may be of `env`, too.
      env: of every run, but for its settings.
      devices: runs are split over them, and where these are fewer, the batch of each.
      fuse: use the meta-optimiser's own form of an iteration, if it has one for this agent.
      chunk: at most so many runs of a device are taken together; None: CPU_CHUNK on a CPU, all of
        them elsewhere.
      micro_batch: trajectories of a run that a device learns from at a time; None for all.
      native: advance them by machine code, if the agent has some and the devices are CPUs.

    Raises:
      UserError: the share of a device is no multiple of `micro_batch`.
      ValueError: a setting is of no component that is there, or not R numbers.
    """
    check((members.agent, env), members.settings, members.size)
    self.members, self._env, self._fuse = members, env, fuse
    self.metrics: Metrics = {}  # [R'], of each run's last update in `advance`; NaN: it made none
    # Faster forms of an iteration act by what was learned last.
    self._native = self._machine_code(devices[0]) if native and not members.lag else None
    if self._native is not None:  # it has threads of its own, and a run is never one of a chunk
      devices, chunk = devices[:1], members.size
    if chunk is None:
      chunk = CPU_CHUNK if devices[0].platform == "cpu" else members.size
    # R runs become R' = groups x chunks x chunk, as arrays split evenly or not at all: a group has
    # as few chunks as will do, and these are made equal so that copies are few.
    groups, self._share = layout(len(devices), members.size, members.num_envs, micro_batch)
    each = -(-members.size // groups)
    chunks = -(-each // chunk)
    self._chunk = -(-each // chunks)
    places = groups * chunks * self._chunk
    # Row r of R' is run min(r, R - 1): behind the last run stand copies of it, which do the same.
    self._padded = np.minimum(np.arange(places), members.size - 1)
    used = np.array(devices[: groups * self._share.devices]).reshape(groups, -1)
    self._mesh = Mesh(used, (AXIS, BATCH))
    # Settings are arguments of the programs and no constants in them: with those that `take` brings
    # the same programs go on.
    self._seeds = self._placed(np.asarray(members.seeds, np.uint32))
    self._settings = self._placed(rows_of(members.settings))
    self._first_device = devices[0]
    self._compiled: Any = None  # known with the states' structure,
    self._inherit: Any = None  # and so is this

  def init(self) -> RunState:
    """Makes the first states of all runs, [R', ...]: R, and copies of the last to fill the chunks.

    Raises:
      UserError: the meta-optimiser cannot learn from such batches.
    """
    # On one device: where several CPU devices call LAPACK at once, as orthogonal initialisers do,
    # its threads may wait for each other for ever.
    rows = jax.device_put((self._seeds, self._settings), self._first_device)
    first = jax.vmap(self._first_state)
    shardings = self._shardings(jax.eval_shape(first, *rows))
    return jax.device_put(jax.jit(first)(*rows), shardings)

  def saved(self, states: RunState) -> RunState:
    """Returns what a checkpoint holds of states [R', ...]: [R, ...], whatever the devices are."""
    if len(self._padded) == self.members.size:
      return states
    return jax.tree.map(lambda x: x[: self.members.size], states)

  def resume(self, saved: RunState) -> RunState:
    """Returns the states [R', ...] of saved ones, [R, ...]; environments are part of them."""
    if len(self._padded) == self.members.size:
      return jax.device_put(saved, self._shardings(saved))
    pad = lambda states: jax.tree.map(lambda x: x[self._padded], states)
    return jax.jit(pad, out_shardings=self._shardings(saved))(saved)

  def advance(self, states: RunState, iterations: int) -> tuple[RunState, Ends]:
    """Makes so many iterations of every run that is still going; `states` are donated.

    Args:
      states: [R', ...].
      iterations: how many.

    Returns:
      The states [R', ...], and the ends of episodes, [R', iterations * T, B]; a fused iteration
      has a T of its own.
    """
    if self._native is None:
      states, ends, self.metrics = self._program(states)(iterations, states, self._settings)
      return states, ends
    members = self.members
    limits = members.max_episodes, members.max_env_steps
    states, ends = self._native(states, iterations * NATIVE_STEPS, *limits)
    # C++ leaves its results on the host; whoever else takes states has them on the devices.
    return jax.device_put(states, self._shardings(states)), ends

  def trace(self, states: RunState, iterations: int) -> None:
    """Traces what `advance` will run, so that what a plugin gives is known before files are left.

    Args:
      states: [R', ...], or their shapes.
      iterations: of a later `advance`.

    Raises:
      UserError: a plugin gives what it must not.
    """
    program = self._program(states)
    # Within a closure: `eval_shape` would trace `iterations`, which is static.
    jax.eval_shape(lambda *rows: program(iterations, *rows), states, self._settings)

  def take(self, settings: Mapping[str, Sequence[float]]) -> None:
    """Goes on with other values of the settings, R numbers each; nothing is compiled anew."""
    self.members = self.members._replace(settings=settings)
    self._settings = self._placed(rows_of(settings))
    if self._native is not None:
      self._native = self._machine_code(self._first_device)

  def inherit(self, states: RunState, parents: np.ndarray) -> RunState:
    """Makes the learners of runs copies of others'; `states` are donated.

    Args:
      states: [R', ...].
      parents: whose copies they are, int [R].

    Returns:
      The states [R', ...].
    """
    # Sharded as they were given: for states that lie elsewhere `_program` would be compiled anew.
    if self._inherit is None:
      given = self._shardings(states)
      self._inherit = jax.jit(inherited, donate_argnums=0, out_shardings=given)
    # Padded like the runs: copies of the last run inherit what that one does, and stay its copies.
    return self._inherit(states, self._placed(np.asarray(parents, np.int32)))

  def each(self, of_run: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Makes a function of one run, which changes nothing of it, one of all runs; compiled.

    Args:
      of_run: from the run's functions, environment and seed, and further trees, to a tree.

    Returns:
      The same from further trees [R', ...] to a tree [R', ...].
    """

    def one(row: tuple[Array, Mapping[str, Array]], *trees: PyTree) -> PyTree:
      seed, values = row
      return of_run(*self._built(values), seed, *trees)

    def of_device(*rows: PyTree) -> PyTree:
      # One chunk after another, as in `_advance`.
      return merged(jax.lax.map(lambda chunk: jax.vmap(one)(*chunk), chunked(rows, self._chunk)))

    # `check_vma` is off: an environment that resets itself within a loop puts constants, the same
    # on all devices, in place of a state that varies, and the check refuses such a carry.
    mapped = jax.shard_map(
      of_device, mesh=self._mesh, in_specs=P(AXIS), out_specs=P(AXIS), check_vma=False
    )
    compiled = jax.jit(mapped)
    # Settings are looked up at each call, after whatever `take` has changed.
    return lambda *trees: compiled((self._seeds, self._settings), *trees)

  def of_each(self, x: Array) -> np.ndarray:
    """Returns what is of each run, [R', ...], on the host and without the copies: [R, ...]."""
    return np.asarray(x)[: self.members.size]

  def close(self) -> None:
    """Does nothing: no pool or thread is held."""

  def _placed(self, rows: PyTree) -> PyTree:
    """Puts what is of each run, [R, ...], on the devices, with the copies: [R', ...]."""
    padded = jax.tree.map(lambda x: x[self._padded], rows)
    return jax.device_put(padded, NamedSharding(self._mesh, P(AXIS)))

  def _shardings(self, states: RunState) -> PyTree:
    return jax.tree.map(lambda spec: NamedSharding(self._mesh, spec), specs(states))

  def _machine_code(self, device: Device) -> Advance | None:
    """Returns what advances the runs in place of JAX; None where nothing can."""
    agent, members = self.members.agent, self.members
    if not isinstance(agent.metaopt, AdvancesNatively) or device.platform != "cpu":
      return None
    runs = []
    for r in range(members.size):
      # Numbers of Python: C++ takes a table of them, where JAX traces one array for all runs.
      values = {name: float(of_runs[r]) for name, of_runs in members.settings.items()}
      of_run, env = with_settings((agent, self._env), values)
      runs.append(Parts(of_run.metaopt, of_run.network, env))
    fns = Functions(agent, self._env.spec, members.total_updates)
    found = agent.metaopt.natively(fns, runs)
    # In place of machine code the plugin may give a sentence that says why there is none.
    self.form = f"JAX: {found}" if isinstance(found, str) else "machine code"
    return None if isinstance(found, str) else found

  def _built(self, values: Mapping[str, Array]) -> tuple[Functions, FunctionalEnvironment]:
    agent, env = with_settings((self.members.agent, self._env), values)
    return Functions(agent, env.spec, self.members.total_updates), functional(env)

  def _first_state(self, seed: Array, values: Mapping[str, Array]) -> RunState:
    fns, env = self._built(values)
    # Environments first: `PoolRuns` splits alike and drops that key, so its agents begin alike.
    env_key, *keys = jax.random.split(jax.random.key(seed), 4)
    env_state, timestep = jax.vmap(env.init)(jax.random.split(env_key, self.members.num_envs))
    timestep = as_specified(timestep, env.spec, jnp.asarray)
    t, lag = self.members.unroll_length, self.members.lag
    return first_run(fns, tuple(keys), env_state, timestep, t, lag)

  def _program(self, states: RunState) -> Any:
    if self._compiled is None:
      # Said, for JAX leaves out axes of one device: states would come back as others than went in,
      # and be compiled for once more. `iterations` is static, as the length of a `scan` is; a run
      # always asks for the same number.
      given = (self._shardings(states), None, None)
      self._compiled = jax.jit(
        self._mapped, static_argnums=0, donate_argnums=1, out_shardings=given
      )
    return self._compiled

  def _mapped(self, iterations: int, states: RunState, settings: Mapping[str, Array]):
    # `check_vma` is off for the reasons given in `engine.learner` and `each`; beside these, metrics
    # begin as constants here, and a chunk at rest gives constants where others give what varies.
    of_states = specs(states)
    return jax.shard_map(
      functools.partial(self._advance, iterations),
      mesh=self._mesh,
      in_specs=(of_states, P(AXIS)),
      out_specs=(of_states, P(AXIS, None, BATCH), P(AXIS)),
      check_vma=False,
    )(states, settings)

  def _advance(self, iterations: int, states: RunState, settings: Mapping[str, Array]):
    """Advances the runs of one device, and of each the environments that the device has."""

    def iterate(state, values):
      # Metrics become float32: NaN stands in them for a run that has made no update.
      state, ends, metrics = self._iteration(*self._built(values))(state)
      return (state, jax.tree.map(jnp.float32, metrics)), ends

    def one_run(carry, values):
      state, _ = carry
      # `vmap` computes an ended run as well; only what comes of it is dropped.
      return unless_ended(self.members.active(state), iterate(state, values), carry)

    def one_chunk(chunk):
      states, values = chunk
      # Metrics are carried, so that a run which ends midway keeps those of its last update.
      metrics = jax.eval_shape(jax.vmap(iterate), states, values)[0][1]
      none = jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), metrics)
      body = lambda carry, _: jax.vmap(one_run)(carry, values)
      scan = lambda carry: jax.lax.scan(body, carry, None, iterations)
      shapes = jax.eval_shape(scan, (states, none))[1]
      # Branches of a `cond` give the same shapes: a chunk at rest gives ends in which none ended.
      rest = lambda carry: (carry, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes))
      return jax.lax.cond(jnp.any(self.members.active(states)), scan, rest, (states, none))

    # A loop and not a vmap: its `cond` then skips a chunk whose runs have all ended.
    (states, metrics), ends = jax.lax.map(one_chunk, chunked((states, settings), self._chunk))
    # [chunks, iterations, chunk, T, B] -> [R, iterations, T, B] -> [R, iterations * T, B]
    ends = merged(jax.tree.map(lambda x: jnp.moveaxis(x, 1, 2), ends))
    ends = jax.tree.map(lambda x: x.reshape(len(x), -1, x.shape[3]), ends)
    return merged(states), ends, merged(metrics)

  def _iteration(self, fns: Functions, env: FunctionalEnvironment) -> Iteration:
    # A fused form acts by what was learned last, in all environments of a run: no lag, no sharing.
    share = self._share
    if (
      self._fuse
      and not self.members.lag
      and share.devices == 1
      and isinstance(fns.metaopt, FusesIterations)
    ):
      fused = fns.metaopt.fused(fns, env, self.members.active)
      if fused is not None:
        return fused
    fns = share.of(fns, self.members.num_envs)
    return functools.partial(iterate, fns, env, self.members.unroll_length, share)

"""Training R independent runs as one program; the same configuration, logs and checkpoints."""

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..agent.update import describe, suspects
from ..api import checks
from ..api.contracts import FunctionalEnvironment
from ..api.errors import UserError, plugin_mistakes
from ..api.online import RunState
from ..api.ranges import LARGEST
from ..api.types import Device, Metrics
from ..engine import single
from ..engine.actor import Interrupted
from ..engine.batches import micro_batches_of
from ..engine.loop import Moved, Progress
from ..experiment import IndependentRuns, Train
from ..machine import hosts, platform, shortage
from ..record import lineage
from ..record.logging import Logger
from .device import Runs
from .exchanges import Exchanges, check_every
from .iteration import episodes
from .layout import CPU_CHUNK, layout
from .logs import RunLogs
from .pool import PoolRuns
from .rows import how_far, summary, warn_of_failures, write_table
from .settings import Members, check_each, laid_out, varied

Beside = Callable[[Any, RunLogs, Logger, Callable[[], bool]], Any]
# makes what looks at the runs with `look(states [R', ...], env_steps of all runs, last)`


class ManyRuns:
  """Independent runs as one program; satisfies `engine.loop.Training`."""

  def __init__(
    self,
    experiment: Train,
    runtime: IndependentRuns,
    restart: int,
    table: Path,
    beside: Beside | None = None,
  ):
    """Makes the runs.

    Args:
      experiment: what is trained.
      runtime: its runtime.
      restart: how many starts of the training came before this one; environments in a pool get new
        seeds at each.
      table: a CSV file with a row for each run, written beside every checkpoint.
      beside: looks at the runs where the host does; None where nothing is to.

    Raises:
      UserError: this agent cannot act in this environment.
    """
    devices = platform.devices(experiment.learner_devices, "train.learner_devices")
    self._runs = runs = make_runs(experiment, runtime, devices, restart)
    self._experiment, self._runtime, self._table = experiment, runtime, table
    self._beside = beside
    self.size = runs.members.size
    self.env_seeds = [[runs.env_seeds]]
    self.most_episodes = 0  # there is one process, and nobody to tell
    # Laid out once more, with the same result: `make_runs` has taken seeds and settings alone.
    rules = laid_out(experiment, runtime)[2]
    lineage_path = table.with_name(lineage.FILE)
    self._exchanges = None if rules is None else Exchanges(rules, runs, lineage_path)
    self._describe = jax.jit(jax.vmap(functools.partial(describe, experiment.agent.metaopt)))

  def init(self) -> RunState:
    """Makes the first states, [R, ...]; what a plugin refuses is known once there are some."""
    states = self._runs.init()
    self._runs.trace(states, self._runtime.iterations)
    return self._runs.saved(states)

  @contextlib.contextmanager
  def begun(
    self, saved: RunState, progress: Progress, logger: Logger, stopping: Callable[[], bool]
  ) -> Iterator[RunState]:
    """Opens the logs of the runs; gives the states [R', ...] that begin as `saved`, [R, ...]."""
    runs, self._stopping = self._runs, stopping
    if isinstance(runs, Runs) and runs.form:
      print(f"selftune: runs are advanced by {runs.form}", file=sys.stderr)
    with contextlib.closing(runs):
      # Before the logs are opened: they say which settings each run goes on with.
      if self._exchanges is not None:
        self._exchanges.begin(progress.population, progress.env_steps)
      states = runs.resume(saved)
      writers, total = self._runtime.run_writers, self._experiment.total_env_steps
      stats = progress.episodes
      with RunLogs(writers, logger, runs, states, stats, total) as self._logs:
        make = self._beside or (lambda *_: None)
        self._looking = make(runs, self._logs, logger, stopping)
        # Before the first step: what is scored begins with the untrained agent.
        self._look(states, progress.env_steps)
        yield states

  def advance(self, state: RunState, progress: Progress) -> tuple[RunState, Moved]:
    """Makes `runs.iterations` iterations of all runs that still go, and an exchange if it is time.

    States and metrics are [R', ...]; the states are donated.
    """
    del progress
    # Before the states are donated: the loop saves them when it is interrupted.
    if self._stopping():
      raise Interrupted
    runs = self._runs
    state, ends = runs.advance(state, self._runtime.iterations)
    steps = runs.of_each(state.env_steps)
    # Each run counts in int32, which the sum of many may exceed.
    env_steps = int(steps.sum(dtype=np.int64))
    found = episodes(jax.device_get(ends), runs.members.size)
    ended = [(*episode, number) for number, of_run in enumerate(found) for episode in of_run]
    self._logs.log_episodes(found, steps)
    updates = int(runs.of_each(state.learner.step).max())
    standing = None
    if self._exchanges is not None:
      state = self._exchanges.look(state, found, env_steps)
      standing = self._exchanges.standing.to_json()
    # Metrics that say nothing, as of a fused iteration, still say that something was done. `step`
    # is an array of the state, gone when that is donated: `row` reads it before, and `check` never.
    metrics = runs.metrics | {"updates": state.learner.step}
    self._look(state, env_steps)
    moved = Moved(updates, env_steps, ended, metrics, 0.0, *runs.waited, population=standing)
    return state, moved

  def _look(self, state: RunState, env_steps: int) -> None:
    if self._looking:
      self._looking.look(state, env_steps, last=not self._active(state))

  def _active(self, state: RunState) -> bool:
    return bool(self._runs.of_each(self._runs.members.active(state)).any())

  def done(self, state: RunState, progress: Progress) -> bool:
    """Says whether every run has made its steps, finished its episodes or diverged."""
    del progress
    return not self._active(state)

  def check(self, metrics: Metrics) -> None:
    """Does nothing with metrics [R']: a run that was not finite stands still, the others go on."""

  def row(self, state: RunState, metrics: Metrics, progress: Progress) -> dict[str, Any]:
    """Returns what all runs together are, and tells each run's own log what that run is.

    Args:
      state: of the runs, [R', ...].
      metrics: of their last updates, [R'] each.
      progress: of all of them.
    """
    runs = self._runs
    found = jax.tree.map(runs.of_each, metrics | self._describe(state.learner))
    if self._exchanges is not None:
      found |= self._exchanges.of_each()
    still = how_far(runs, state)
    self._logs.log(found | still, runs.of_each(state.env_steps), progress.episodes)
    # Told at the end alone: until then a population may make such a run a copy of another.
    if progress.done:
      names = suspects(checks.who(self._experiment.env), self._experiment.agent)
      warn_of_failures(names, runs.of_each(state.learner.failure))
    return summary(found) | {name: int(x.sum()) for name, x in still.items()}

  def saved(self, state: RunState) -> RunState:
    """Returns the states of all runs, [R, ...], of [R', ...]; their table and logs are written."""
    self._logs.flush()
    write_table(self._table, self._runs, state)
    return self._runs.saved(state)


def check(experiment: Train, runtime: IndependentRuns) -> None:
  """Refuses what such a runtime cannot do, before anything is made.

  Raises:
    UserError: says what; a setting is of nothing that is there.
    RunError: the batches alone are more than the memory of the machine.
  """
  # What memory cannot hold.
  b, t, size = experiment.num_envs, experiment.unroll_length, runtime.size
  what = f"train.num_envs = {b} x train.unroll_length = {t} x {size:,} runs"
  shortage.check(size * b * t * shortage.TRANSITION, what)
  ends = size * b * t * runtime.iterations * shortage.END
  shortage.check(ends, f"runs.iterations = {runtime.iterations} of {size:,} runs")
  # What this runtime does not offer.
  if hosts.count() > 1:
    raise UserError("train.runtime = @runs() runs in one process: leave out --coordinator.")
  if experiment.overlap:
    raise UserError("train.overlap: @runs() takes trajectories one after the other; write 0.")
  functional = isinstance(experiment.env, FunctionalEnvironment)
  if experiment.evaluation is not None and not functional:
    raise UserError(
      "train.evaluation: @runs() scores runs whose environment is part of the program, which "
      f"that of {checks.who(experiment.env)} is not; leave it None, and score run 0 with "
      "selftune eval."
    )
  # Counted on the device in int32; the last update may go beyond `total_env_steps`.
  last = experiment.total_env_steps + experiment.steps_per_update
  if last > LARGEST:
    raise UserError(
      f"train.total_env_steps = {experiment.total_env_steps}: each run of @runs() counts to "
      f"{LARGEST:_}; write at most {LARGEST - experiment.steps_per_update:_}."
    )
  # The rest is called only for what it refuses.
  with plugin_mistakes():
    check_each(varied(experiment), laid_out(experiment, runtime)[1])
  if runtime.population is not None:
    check_every(experiment, runtime)
  devices = platform.devices(experiment.learner_devices, "train.learner_devices")
  of_device = single.micro_batch(experiment, devices)
  if functional:
    layout(len(devices), size, b, of_device)
  else:
    micro_batches_of(b, 1, of_device)


def rehearse(experiment: Train, runtime: IndependentRuns) -> None:
  """Traces the first state and an iteration, where no environment is made as it is functional.

  Raises:
    UserError: the network does not go with the environment, a loss with the actions, or the
      meta-optimiser with the batch.
  """
  if isinstance(experiment.env, FunctionalEnvironment):
    devices = platform.devices(experiment.learner_devices, "train.learner_devices")
    runs = make_runs(experiment, runtime, devices, advances=False)
    assert isinstance(runs, Runs)
    runs.trace(jax.eval_shape(runs.init), runtime.iterations)


def smaller(experiment: Train) -> str:
  """Says what to do where memory does not suffice."""
  chunk = experiment.runs and experiment.runs.chunk
  now = chunk or f"None: {CPU_CHUNK} on a CPU, elsewhere all runs of a device"
  return f"Halve runs.chunk (it is {now}), runs.iterations, train.num_envs or train.unroll_length."


def make_runs(
  experiment: Train,
  runtime: IndependentRuns,
  devices: Sequence[Device],
  restart: int = 0,
  advances: bool = True,
) -> Runs | PoolRuns:
  """Makes the runs of an experiment.

  Args:
    experiment: what is trained.
    runtime: its runtime.
    devices: that the runs, and where they are part of the program their environments, are split
      over.
    restart: how many starts of the training came before this one; environments in a pool get new
      seeds at each.
    advances: whether they will be advanced; for a look at their states no machine code is compiled.

  Raises:
    UserError: this agent cannot act in this environment.
  """
  env = experiment.env
  with plugin_mistakes():
    seeds, settings, _ = laid_out(experiment, runtime)
    members = Members(
      experiment.agent,
      seeds,
      settings,
      experiment.num_envs,
      experiment.unroll_length,
      experiment.total_updates,
      runtime.episodes,
      experiment.total_env_steps,
      runtime.lag,
    )
    micro_batch = single.micro_batch(experiment, devices)
    if isinstance(env, FunctionalEnvironment):
      native = runtime.native and advances
      return Runs(
        members, env, devices, chunk=runtime.chunk, micro_batch=micro_batch, native=native
      )
    return PoolRuns(members, env, devices, restart, experiment.stagger, micro_batch)

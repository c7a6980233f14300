"""Training R independent runs as one program; the same configuration, logs and checkpoints.

The loop that `core.loop` is to a single run.
"""

import csv
import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..agent.update import describe, suspects
from ..api import checks, files
from ..api.contracts import FunctionalEnvironment
from ..api.errors import UserError, plugin_mistakes
from ..api.online import RunState
from ..api.ranges import LARGEST
from ..api.types import Device, Episode, Histogram
from ..engine.loop import Clock, Progress
from ..experiment import IndependentRuns, Train
from ..machine import hosts
from ..record.checkpoint import Checkpointer
from ..record.histograms import pooled
from ..record.logging import Logger
from .device import Runs
from .iteration import episodes
from .logs import RunLogs
from .pool import PoolRuns
from .settings import Members, check

_LOG = logging.getLogger(__name__)


def varied(experiment: Train) -> tuple[Any, ...]:
  """The plugins whose numbers can be settings: the environment only where it is functional."""
  functional = isinstance(experiment.env, FunctionalEnvironment)
  return (experiment.agent, experiment.env) if functional else (experiment.agent,)


def refuse(experiment: Train, runtime: IndependentRuns) -> None:
  """Refuses what such a runtime cannot do, before anything is made.

  Raises:
    UserError: says what; a setting is of nothing that is there.
  """
  if hosts.count() > 1:
    raise UserError("train.runtime = @runs() runs in one process: leave out --coordinator.")
  if experiment.overlap:
    raise UserError("train.overlap: @runs() takes trajectories one after the other; write 0.")
  if experiment.micro_batch is not None:
    raise UserError("train.micro_batch: @runs() takes the whole batch of a run; write None.")
  if experiment.evaluation is not None:
    raise UserError(
      "train.evaluation: @runs() has nothing beside which to evaluate; leave it None, and "
      "score the agent with selftune eval."
    )
  last = experiment.total_env_steps + experiment.steps_per_update
  if last > LARGEST:
    raise UserError(
      f"train.total_env_steps = {experiment.total_env_steps}: each run of @runs() counts to "
      f"{LARGEST:_}; write at most {LARGEST - experiment.steps_per_update:_}."
    )
  seeds, settings = runtime.grid(experiment.seed)
  with plugin_mistakes():
    check(varied(experiment), settings, len(seeds))


def make_runs(
  experiment: Train, runtime: IndependentRuns, devices: Sequence[Device], restart: int = 0
) -> Runs | PoolRuns:
  """The runs of an experiment.

  Args:
    experiment: what is trained.
    runtime: its runtime.
    devices: that the runs are split over.
    restart: of the training; environments in a pool get new seeds at each.

  Raises:
    UserError: this agent cannot act in this environment.
  """
  env = experiment.env
  seeds, settings = runtime.grid(experiment.seed)
  with plugin_mistakes():
    members = Members(
      experiment.agent,
      seeds,
      settings,
      experiment.num_envs,
      experiment.unroll_length,
      experiment.total_updates,
      runtime.episodes,
      experiment.total_env_steps,
    )
    if isinstance(env, FunctionalEnvironment):
      return Runs(members, env, devices, chunk=runtime.chunk)
    return PoolRuns(members, env, devices, restart, experiment.stagger)


def run(
  experiment: Train,
  runtime: IndependentRuns,
  runs: Runs | PoolRuns,
  table: Path,
  logger: Logger,
  checkpoints: Checkpointer,
  states: RunState,
  progress: Progress,
  stopping: Callable[[], bool],
) -> Progress:
  """Trains until every run has ended, or until `stopping()`; saves in either case.

  Args:
    experiment: what is trained.
    runtime: its runtime.
    runs: its runs.
    table: a CSV file with a row for each run, written beside every checkpoint.
    logger: gets a row now and then, and every finished episode with the number of its run; each
      run's `run_writers` get what is of it alone.
    checkpoints: of the states of all runs.
    states: of the runs.
    progress: so far; `updates` are those of the run that made most, `env_steps` those of all.
    stopping: says that training is to end.
  """
  described = jax.jit(jax.vmap(functools.partial(describe, experiment.agent.metaopt)))
  clock = Clock(experiment.log_seconds, experiment.checkpoint_seconds)

  def save() -> None:
    now = dataclasses.replace(progress, wall_time=logger.wall_time)
    checkpoints.save(now.updates, runs.saved(states), now.to_json())
    write_table(table, runs, states)

  def done() -> bool:
    return not runs.of_each(runs.members.active(states)).any()

  progress = dataclasses.replace(progress, done=done())
  with RunLogs(runtime.run_writers, logger, runs, states, experiment.total_env_steps) as run_logs:
    while not progress.done and not stopping():
      states, ends = runs.advance(states, runtime.iterations)
      steps = runs.of_each(states.env_steps)
      env_steps = int(steps.sum(dtype=np.int64))
      found = episodes(jax.device_get(ends), runs.members.size)
      finished = [
        Episode(env_steps, *episode, run=number)
        for number, of_run in enumerate(found)
        for episode in of_run
      ]
      logger.log_episodes(finished)
      run_logs.log_episodes(finished, steps)
      clock.add(env_steps - progress.env_steps, 0.0, *runs.waited)
      progress = dataclasses.replace(
        progress,
        updates=int(runs.of_each(states.learner.step).max()),
        env_steps=env_steps,
        episodes=progress.episodes.add(finished),
        done=done(),
      )
      if clock.time_to_log() or progress.done:
        metrics = jax.tree.map(runs.of_each, described(states.learner))
        still = how_far(runs, states)
        row = summary(metrics) | {name: int(x.sum()) for name, x in still.items()}
        logger.log(row | progress.episodes.summary() | clock.row(), env_steps)
        run_logs.log(metrics | still, steps, progress.episodes)
      if clock.time_to_save():
        save()
    save()
  names = suspects(checks.who(experiment.env), experiment.agent)
  warn_of_failures(names, runs.of_each(states.learner.failure))
  return dataclasses.replace(progress, wall_time=logger.wall_time)


def summary(metrics: Mapping[str, np.ndarray | Histogram]) -> dict[str, float | Histogram]:
  """Metrics of all runs as those of a row: the one run's, or the mean, least and greatest of them.

  A histogram is that of all runs together. What is not finite in some run, as in one that
  diverged, is left out.
  """
  row: dict[str, float | Histogram] = {}
  for name, values in metrics.items():
    if isinstance(values, Histogram):
      row[name] = pooled(values)
      continue
    finite = values[np.isfinite(values)]
    if len(values) == 1 or not len(finite):
      row[name] = float(values[0])
    else:
      row |= {name: float(finite.mean())}
      row |= {f"{name}/least": float(finite.min()), f"{name}/greatest": float(finite.max())}
  return row


def how_far(runs: Runs | PoolRuns, states: RunState) -> dict[str, np.ndarray]:
  """Which runs are still going, and which diverged; [R] of 0 and 1."""
  return {
    "runs/active": runs.of_each(runs.members.active(states)).astype(int),
    "runs/diverged": (runs.of_each(states.learner.failure) >= 0).astype(int),
  }


def warn_of_failures(names: Sequence[str], failures: np.ndarray) -> None:
  """Warns of runs that diverged because of what a plugin gave.

  Args:
    names: of the `suspects`.
    failures: of the runs, [R], as in LearnerState.
  """
  for cause, name in enumerate(names):
    runs = np.flatnonzero(failures == cause)
    if runs.size:
      more = f" and {runs.size - 5} more" if runs.size > 5 else ""
      listed = ", ".join(map(str, runs[:5]))
      _LOG.warning("'%s' was not finite: it ended run %s%s.", name, listed, more)


def write_table(path: Path, runs: Runs | PoolRuns, states: RunState) -> None:
  """Writes what each run is and how far it came, whole or not at all.

  Raises:
    RunError: it cannot be written.
  """
  with files.whole(path) as file:
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(["run", "seed", *runs.members.settings, "episodes", "env_steps", "diverged"])
    ended = (states.finished, states.env_steps, states.learner.failure >= 0)
    columns = (runs.members.seeds, *runs.members.settings.values(), *map(runs.of_each, ended))
    for number, values in enumerate(zip(*columns, strict=True)):
      rows.writerow([number, *(np.asarray(value).item() for value in values)])

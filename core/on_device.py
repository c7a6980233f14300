"""Training R independent runs on the device: act, step and learn compiled to one program.

The loop of `core.loop` where the environment is functional and there is no host in the loop; the
same configuration, logs and checkpoints.
"""

import csv
import dataclasses
import io
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

from . import hosts, platform
from .checkpoint import Checkpointer
from .episodes import Episode
from .errors import RunError, UserError, plugin_mistakes
from .interfaces import FunctionalEnvironment
from .iteration import RunState, episodes
from .logging import Logger
from .loop import Clock, Progress
from .registry import configurable, name_of
from .runs import CHUNK, Runs

if TYPE_CHECKING:
  from .experiment import Train


@configurable("on_device")
@dataclasses.dataclass(frozen=True)
class OnDevice:
  """Runs that act, step and learn on the device, each independent of the others.

  `train.num_envs` and `train.total_env_steps` are of each run. A run is frozen when it has finished
  its `episodes`, or diverged; training ends when all are frozen or have made their steps.

  Attributes:
    settings: values to run, by 'component.field'; every combination of them is a setting.
    repeats: runs of each setting, with the seeds train.seed, train.seed + 1, ...
    episodes: of each run; None for no limit.
    iterations: updates between looks at the host.
    chunk: runs of a device that are taken together.
  """

  settings: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
  repeats: int = 1
  episodes: int | None = None
  iterations: int = 100
  chunk: int = CHUNK
  actor_devices = ()  # none but those that learn

  def __post_init__(self):
    for name in ("repeats", "episodes", "iterations", "chunk"):
      value = getattr(self, name)
      if value is not None and value < 1:
        raise ValueError(f"{name} = {value} must be at least 1.")

  def grid(self, seed: int) -> tuple[list[int], dict[str, list[float]]]:
    """The seed of every run, and its settings by name."""
    combinations = list(itertools.product(*self.settings.values()))
    rows = [row for row in combinations for _ in range(self.repeats)]
    seeds = [seed + i for _ in combinations for i in range(self.repeats)]
    return seeds, {name: [row[i] for row in rows] for i, name in enumerate(self.settings)}


def make_runs(experiment: "Train", runtime: OnDevice) -> Runs:
  """The runs of an experiment.

  Raises:
    UserError: its environment is not functional, or a setting is of nothing that is there.
  """
  env = experiment.env
  if hosts.count() > 1:
    raise UserError("train.runtime = @on_device() runs in one process: leave out --coordinator.")
  if not isinstance(env, FunctionalEnvironment):
    raise UserError(
      f"train.runtime = @on_device() needs a functional environment, and {name_of(env)} is none: "
      "write train.runtime = @lockstep()."
    )
  if experiment.overlap:
    raise UserError("train.overlap: @on_device() takes trajectories one after the other; write 0.")
  seeds, settings = runtime.grid(experiment.seed)
  with plugin_mistakes():
    return Runs(
      experiment.agent,
      env,
      seeds,
      settings,
      platform.devices(experiment.learner_devices, "train.learner_devices"),
      num_envs=experiment.num_envs,
      unroll_length=experiment.unroll_length,
      total_updates=experiment.total_updates,
      max_episodes=runtime.episodes,
      chunk=runtime.chunk,
    )


def run(
  experiment: "Train",
  runtime: OnDevice,
  runs: Runs,
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
    logger: gets a row now and then, and every finished episode with the number of its run.
    checkpoints: of the states of all runs.
    states: of the runs.
    progress: so far; `updates` are those of the run that made most, `env_steps` those of all.
    stopping: says that training is to end.
  """
  describe = jax.jit(jax.vmap(experiment.agent.metaopt.describe))
  clock = Clock(experiment.log_seconds, experiment.checkpoint_seconds)

  def save() -> None:
    now = dataclasses.replace(progress, wall_time=logger.wall_time)
    checkpoints.save(now.updates, states, now.to_json())
    write_table(table, runs, states)

  def done() -> bool:
    steps = runs.of_each(states.env_steps)
    going = runs.of_each(runs.active(states)) & (steps < experiment.total_env_steps)
    return not going.any()

  progress = dataclasses.replace(progress, done=done())
  while not progress.done and not stopping():
    states, ends = runs.advance(states, runtime.iterations)
    env_steps = int(runs.of_each(states.env_steps).sum(dtype=np.int64))
    finished = [
      Episode(env_steps, *episode, run=number)
      for number, found in enumerate(episodes(jax.device_get(ends), runs.count))
      for episode in found
    ]
    logger.log_episodes(finished)
    clock.add(env_steps - progress.env_steps, 0.0, 0.0, 0.0)
    progress = dataclasses.replace(
      progress,
      updates=int(runs.of_each(states.learner.step).max()),
      env_steps=env_steps,
      episodes=progress.episodes.add(finished),
      done=done(),
    )
    if clock.time_to_log() or progress.done:
      metrics = {name: runs.of_each(x) for name, x in describe(states.learner).items()}
      row = summary(metrics) | counts(runs, states)
      logger.log(row | progress.episodes.summary() | clock.row(), env_steps)
    if clock.time_to_save():
      save()
  save()
  return dataclasses.replace(progress, wall_time=logger.wall_time)


def summary(metrics: Mapping[str, np.ndarray]) -> dict[str, float]:
  """Metrics of all runs as those of a row: the one run's, or the mean, least and greatest of them.

  What is not finite in some run, as in one that diverged, is left out of all three.
  """
  row: dict[str, float] = {}
  for name, values in metrics.items():
    finite = values[np.isfinite(values)]
    if len(values) == 1 or not len(finite):
      row[name] = float(values[0])
    else:
      row |= {name: float(finite.mean())}
      row |= {f"{name}/least": float(finite.min()), f"{name}/greatest": float(finite.max())}
  return row


def counts(runs: Runs, states: RunState) -> dict[str, int]:
  """How many runs are still going, and how many diverged."""
  return {
    "runs/active": int(runs.of_each(runs.active(states)).sum()),
    "runs/diverged": int((runs.of_each(states.learner.failure) >= 0).sum()),
  }


def write_table(path: Path, runs: Runs, states: RunState) -> None:
  """Writes what each run is and how far it came, whole or not at all.

  Raises:
    RunError: it cannot be written.
  """
  text = io.StringIO()
  rows = csv.writer(text, lineterminator="\n")
  rows.writerow(["run", "seed", *runs.settings, "episodes", "env_steps", "diverged"])
  ended = (states.finished, states.env_steps, states.learner.failure >= 0)
  columns = (runs.seeds, *runs.settings.values(), *map(runs.of_each, ended))
  for number, values in enumerate(zip(*columns, strict=True)):
    rows.writerow([number, *(np.asarray(value).item() for value in values)])
  new = path.with_suffix(".new")
  try:
    new.write_text(text.getvalue())
    new.replace(path)
  except OSError as error:
    raise RunError(f"cannot write {path}: {error.strerror}.") from error

"""A log of its own for each of many runs of one program, in WORKDIR/runs/<number>.

What `train.writers` log of such a program is about all runs together; these writers log each as if
it were alone.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..api import checks
from ..api.contracts import RunInfo, TakesEvaluations, TakesHistograms, Writer, WriterPlugin
from ..api.online import RunState
from ..api.registry import name_of
from ..api.types import Episode, Histogram
from ..record import metrics
from ..record.episodes import EpisodeStats
from ..record.logging import Logger
from .device import Runs
from .pool import PoolRuns
from .rows import how_far
from .settings import Members

RUN = "run"  # the entry of a row that says whose it is
# Fields of `@runs()` that say nothing of a single run.
OF_ALL = ("settings", "paired", "repeats", "run_writers", "population")


def folder(workdir: str | Path, number: int) -> Path:
  """Returns the workdir of one run of many."""
  return Path(workdir, "runs", f"{number:03d}")


class RunLogs:
  """The open logs; a context manager, used from the main thread only."""

  def __init__(
    self,
    writers: Sequence[WriterPlugin],
    logger: Logger,
    runs: Runs | PoolRuns,
    states: RunState,
    stats: EpisodeStats,
    total_env_steps: int,
  ):
    """Opens the writers.

    Args:
      writers: what each run is logged with.
      logger: the log of all runs together, open.
      runs: what is logged.
      states: that the runs begin with, [R', ...].
      stats: of the episodes of all runs before.
      total_env_steps: of each run.
    """
    members, steps = runs.members, runs.of_each(states.env_steps)
    # Where no writer is configured nothing is opened, and every `log` below does nothing.
    infos = [
      RunInfo(
        workdir=str(folder(logger.run.workdir, number)),
        config=_of_one(logger.run.config, members, number),
        total_env_steps=total_env_steps,
        resumed_at=int(steps[number]),
        ids={},
      )
      for number in range(members.size if writers else 0)
    ]
    # `_EveryRun` is one writer to `Logger`: R logs share its thread and its queue.
    every = {name_of(writer): _EveryRun(writer, infos) for writer in writers}
    self._logger = Logger(every, logger.run, logger.wall_time)
    # A resumed run that stands still may have had its last row: what that held is in no checkpoint.
    active = how_far(runs, states)["runs/active"]
    self._said: list[tuple[Any, ...]] = [
      _news(steps[number], stats.of(number).summary(), 0)
      if not active[number] and _has_ended(Path(info.workdir))
      else ()
      for number, info in enumerate(infos)
    ]

  def log(self, metrics: Mapping[str, Any], env_steps: np.ndarray, stats: EpisodeStats) -> None:
    """Logs a row for each run that moved since its last one.

    Args:
      metrics: [R] each, or histograms [R, ...].
      env_steps: of each run, [R].
      stats: of the episodes of all runs.
    """
    for number, said in enumerate(self._said):
      row = jax.tree.map(lambda x, number=number: x[number], dict(metrics))
      of_episodes = stats.of(number).summary()
      # A run that stands still has no news, but for the one row that says it is active no more.
      news = _news(env_steps[number], of_episodes, row["runs/active"])
      if news != said:
        self._said[number] = news
        self._logger.log({RUN: number, **row, **of_episodes}, env_steps[number])

  def log_episodes(
    self, found: Sequence[Sequence[tuple[float, int]]], env_steps: np.ndarray
  ) -> None:
    """Logs finished episodes, each in the log of its run.

    Args:
      found: return and length of each, by run.
      env_steps: of each run, [R].
    """
    if self._said:
      # A task for each run, as a disk counts as hanging that takes none for long.
      for number, (of_run, steps) in enumerate(zip(found, env_steps.tolist(), strict=True)):
        self._logger.log_episodes([Episode(steps, *ended, number) for ended in of_run])

  def log_evaluation(self, row: Mapping[str, float], number: int) -> None:
    """Logs the scores of one run."""
    if self._said:
      self._logger.log_evaluation({RUN: number, **row})

  def flush(self) -> None:
    """Waits until all that was logged is written; raises as `Logger.flush`."""
    self._logger.flush()

  def __enter__(self) -> "RunLogs":
    self._logger.__enter__()
    return self

  def __exit__(self, *ended: Any) -> None:
    self._logger.__exit__(*ended)


class _EveryRun:
  """A writer that hands what it gets to the writer of that run."""

  def __init__(self, plugin: WriterPlugin, infos: Sequence[RunInfo]):
    self.required = plugin.required
    self._plugin, self._infos = plugin, infos

  def open(self, run: RunInfo) -> "_EveryRun":
    """Opens the log of every run; `run` is that of all together, and keeps the ids of each."""
    key = lambda number: f"{name_of(self._plugin)}/{number}"
    self._writers: list[Writer] = []
    for number, info in enumerate(self._infos):
      # The id of an earlier start: a service goes on with the page that it has of this run.
      if key(number) in run.ids:
        info.ids[name_of(self._plugin)] = run.ids[key(number)]
      self._writers.append(checks.opened(self._plugin, info))
      # Under its number: a checkpoint holds the ids of all runs in one dict.
      run.ids.update({key(number): id for id in info.ids.values()})
    return self

  def write(self, row: Mapping[str, float]) -> None:
    """Hands a row to the log of the run that it names."""
    self._writers[int(row[RUN])].write(_without_run(row))

  def write_histograms(self, histograms: Mapping[str, Histogram], row: Mapping[str, float]) -> None:
    """Hands histograms, [N] and [N + 1] each, to the log of the run that the row names."""
    writer = self._writers[int(row[RUN])]
    if isinstance(writer, TakesHistograms):
      writer.write_histograms(histograms, _without_run(row))

  def write_evaluation(self, row: Mapping[str, float]) -> None:
    """Hands scores to the log of the run that they name."""
    writer = self._writers[int(row[RUN])]
    if isinstance(writer, TakesEvaluations):
      writer.write_evaluation(_without_run(row))

  def write_episodes(self, episodes: Sequence[Episode]) -> None:
    """Hands episodes of one run to the log of that, where they have no number."""
    number = episodes[0].run
    assert number is not None  # those of many runs say whose they are
    self._writers[number].write_episodes([Episode(*episode[:3]) for episode in episodes])

  def close(self) -> None:
    """Closes the log of every run."""
    for writer in self._writers:
      writer.close()


def _news(env_steps: int, of_episodes: Mapping[str, float], active: int) -> tuple[Any, ...]:
  """Returns what has to differ from the row before for a run to be logged again."""
  return env_steps, of_episodes["episodes"], active


def _without_run(row: Mapping[str, float]) -> dict[str, float]:
  return {name: value for name, value in row.items() if name != RUN}


def _of_one(config: Mapping[str, Any], members: Members, number: int) -> dict[str, Any]:
  """Returns the configuration of one run, as if it were alone; a setting counts in every scope."""
  own = {name: values[number] for name, values in members.settings.items()}
  own["train.seed"] = members.seeds[number]
  of_all = {f"runs.{name}" for name in OF_ALL}
  return {k: own.get(k.split("/")[-1], v) for k, v in config.items() if k not in of_all}


def _has_ended(workdir: Path) -> bool:
  """Says whether the last row of a run, if there is any, tells that it stands still."""
  path = workdir / "metrics.jsonl"
  rows = list(metrics.read(path)) if path.is_file() else []
  return bool(rows) and rows[-1].get("runs/active") == 0

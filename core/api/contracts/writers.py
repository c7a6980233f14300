"""The contracts of the logs of a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from ..types import Episode, Histogram


@runtime_checkable
class Writer(Protocol):
  """Kind `writer`: an open log. Called from one thread only, rows in order of `env_steps`.

  Every row holds `env_steps` and `wall_time`. May block: it does not delay the other writers, and
  training only where a checkpoint waits for the rows of a required one. Rows are shared, so they
  must not be changed.
  """

  def write(self, row: Mapping[str, float]) -> None:
    """Writes a row of metrics."""
    ...

  def write_episodes(self, episodes: Sequence[Episode]) -> None:
    """Writes episodes that have finished since the last call."""
    ...

  def close(self) -> None:
    """Writes what is held back, and closes the log."""
    ...


@runtime_checkable
class TakesMedia(Protocol):
  """Optional part of a writer that also takes pictures (PNG) and videos (MP4)."""

  def write_media(self, name: str, path: Path) -> None:
    """Writes the file at `path` under a metric's name."""
    ...


@runtime_checkable
class TakesEvaluations(Protocol):
  """Optional part of a writer that also takes the scores of evaluations beside training."""

  def write_evaluation(self, row: Mapping[str, float]) -> None:
    """Writes scores; their `env_steps` are those of the parameters scored, and may go back."""
    ...


@runtime_checkable
class TakesHistograms(Protocol):
  """Optional part of a writer that also takes histograms."""

  def write_histograms(self, histograms: Mapping[str, Histogram], row: Mapping[str, float]) -> None:
    """Writes histograms by name, of N bins, [N] and [N + 1]; `row` was written just before."""
    ...


class WriterPlugin(Protocol):
  """Kind `writer`, as configured: opens the log of one run."""

  @property
  def required(self) -> bool:
    """Whether a checkpoint waits for its rows, and its exception ends the run; else one warning."""
    ...

  def open(self, run: "RunInfo") -> Writer:
    """Opens the log; of a writer that is not required in its own thread, so it may take time."""
    ...


@runtime_checkable
class ForAllRuns(Protocol):
  """Optional part of a writer plugin that one log of serves, however many runs are one program.

  Of others each run of a sweep opens its own: its history, its page at a service.
  """

  @property
  def for_all_runs(self) -> bool:
    """True; what counts is that a plugin has it."""
    ...


class RunInfo(NamedTuple):
  """Facts of a run that its writers may want to know."""

  workdir: str
  config: Mapping[str, Any]  # operative bindings, flat: 'entropy.cost' -> 0.01
  total_env_steps: int
  resumed_at: int  # env steps at which this process started; 0 if fresh
  ids: dict[str, str]  # writer's name -> its own id of the run; kept in checkpoints, writers add

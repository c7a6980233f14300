"""Finished episodes, and the statistics of the last hundred of each run."""

import dataclasses
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from ..api.types import Episode, TimeStep

WINDOW = 100  # episodes of a run that `episode_return` is the mean of


class EpisodeCounter:
  """Return and length so far of the episode of each of B environments on the host."""

  def __init__(self, num_envs: int):
    self.returns = np.zeros(num_envs)  # [B] sum of raw rewards
    self.lengths = np.zeros(num_envs, np.int64)  # [B] transitions

  def so_far(self, i: int | np.integer) -> tuple[float, int]:
    """Returns the raw return and the length so far of environment i."""
    return float(self.returns[i]), int(self.lengths[i])

  def add(self, timestep: TimeStep) -> list[tuple[float, int]]:
    """Counts a timestep [B]; returns what ended before it, as it is FIRST, in order."""
    first = timestep.first
    ended = [self.so_far(i) for i in np.flatnonzero(first)]
    # What leads to a FIRST timestep is a reset and no transition: nothing of it is counted.
    self.returns = np.where(first, 0.0, self.returns + timestep.reward)
    self.lengths = np.where(first, 0, self.lengths + 1)
    return ended


class Window(NamedTuple):
  """The last `WINDOW` finished episodes of a run, and the number of all that finished."""

  returns: tuple[float, ...] = ()
  lengths: tuple[int, ...] = ()
  finished: int = 0

  def add(self, episodes: Sequence[Episode]) -> "Window":
    """Returns the window after more episodes."""
    last = episodes[-WINDOW:]
    returns = (*self.returns, *(float(episode.episode_return) for episode in last))
    lengths = (*self.lengths, *(int(episode.length) for episode in last))
    return Window(returns[-WINDOW:], lengths[-WINDOW:], self.finished + len(episodes))


@dataclasses.dataclass(frozen=True)
class EpisodeStats:
  """Finished episodes of each run, by its number; None is the number of an only run.

  Each run counts as much as any other, however many episodes it has finished.
  """

  windows: Mapping[int | None, Window] = dataclasses.field(default_factory=dict)

  def add(self, episodes: Sequence[Episode]) -> "EpisodeStats":
    """Returns the statistics after more episodes; those of a run in the order they finished in."""
    of_runs: dict[int | None, list[Episode]] = {}
    for episode in episodes:
      of_runs.setdefault(episode.run, []).append(episode)
    known = self.windows
    new = {run: known.get(run, Window()).add(ended) for run, ended in of_runs.items()}
    return EpisodeStats({**known, **new})

  @property
  def finished(self) -> int:
    """The number of finished episodes of all runs together."""
    return sum(window.finished for window in self.windows.values())

  def of(self, run: int) -> "EpisodeStats":
    """Returns the statistics of one run alone."""
    return EpisodeStats({run: self.windows[run]} if run in self.windows else {})

  def summary(self) -> dict[str, float]:
    """Returns metrics for a row; means are absent, not NaN, until an episode has finished."""
    windows = self.windows.values()
    row: dict[str, float] = {"episodes": self.finished}
    if windows:
      # A mean of means: a run of short episodes would else outweigh one of long ones.
      row["episode_return"] = fmean(fmean(window.returns) for window in windows)
      row["episode_length"] = fmean(fmean(window.lengths) for window in windows)
    return row

  def to_json(self) -> list[Any]:
    """Returns what a checkpoint's document holds of the statistics."""
    return [[run, *window] for run, window in self.windows.items()]

  @classmethod
  def from_json(cls, saved: Sequence[Any]) -> "EpisodeStats":
    """Returns the statistics that `to_json` has made a document of."""
    return cls({run: Window(tuple(r), tuple(n), finished) for run, r, n, finished in saved})

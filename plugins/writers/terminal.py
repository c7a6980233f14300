"""The terminal writer: the progress of a run on stderr."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

from ...core.api import Display, Episode, NotNegative, RunInfo, register


@register("writer", "terminal")
@dataclasses.dataclass(frozen=True)
class Terminal:
  """A progress bar with steps/s, ETA and mean return; plain lines where nothing can be drawn."""

  required: ClassVar[bool] = False
  for_all_runs: ClassVar[bool] = True  # a terminal has one bar
  interval: NotNegative = 10.0  # seconds between plain lines

  def open(self, run: RunInfo) -> "_Steps":
    """Begins to show how far the run is."""
    return _Steps(Display(run.total_env_steps, "steps", run.resumed_at, self.interval))


class _Steps:
  """The open display of one run, or of many together."""

  def __init__(self, display: Display) -> None:
    self._display = display

  def write(self, row: Mapping[str, float]) -> None:
    """Shows env steps and mean return, if an episode has finished."""
    score = [f"return {row['episode_return']:.4g}"] if "episode_return" in row else []
    self._display.show(int(row["env_steps"]), *score, now=row["wall_time"])

  def write_episodes(self, episodes: Sequence[Episode]) -> None:
    """Shows nothing of single episodes."""
    del episodes

  def close(self) -> None:
    """Ends the display."""
    self._display.close()

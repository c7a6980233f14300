"""The terminal writer: the progress of a run on stderr."""

import collections
import dataclasses
import datetime
import sys
from collections.abc import Mapping, Sequence
from typing import ClassVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from ...core.api import Episode, NotNegative, RunInfo, register

CENTURY = 100 * 365 * 86_400  # seconds; more than a few million years no timedelta holds
SPEED_WINDOW = 30.0  # seconds that steps/s and ETA are measured over


@register("writer", "terminal")
@dataclasses.dataclass(frozen=True)
class Terminal:
  """A progress bar with steps/s, ETA and mean return; plain lines where nothing can be drawn."""

  required: ClassVar[bool] = False
  interval: NotNegative = 10.0  # seconds between plain lines

  def open(self, run: RunInfo) -> "_Bar | _Lines":
    # Into a file or a dumb terminal a bar would be a page of control characters.
    drawn = sys.stderr.isatty() and not Console(stderr=True).is_dumb_terminal
    return _Bar(run) if drawn else _Lines(run, self.interval)


class Speed:
  """A gauge of env steps per second over the last `SPEED_WINDOW` seconds of this process."""

  def __init__(self) -> None:
    self._points: collections.deque[tuple[float, float]] = collections.deque()

  def __call__(self, row: Mapping[str, float]) -> float | None:
    """Takes a row; steps/s, or None until the second row: before the first, all is compilation."""
    now, steps = row["wall_time"], row["env_steps"]
    self._points.append((now, steps))
    while len(self._points) > 2 and self._points[1][0] < now - SPEED_WINDOW:
      self._points.popleft()
    then, before = self._points[0]
    return (steps - before) / (now - then) if now > then else None


def status(row: Mapping[str, float], speed: float | None, total: int) -> str:
  """Returns a line such as `1,200/5,000 steps | 300 steps/s | ETA 0:00:12 | return 0.95`."""
  parts = [f"{row['env_steps']:,}/{total:,} steps"]
  if speed:
    left = min(max(0.0, total - row["env_steps"]) / speed, CENTURY)
    parts += [f"{speed:,.0f} steps/s", f"ETA {datetime.timedelta(seconds=round(left))}"]
  if "episode_return" in row:
    parts.append(f"return {row['episode_return']:.4g}")
  return " | ".join(parts)


class _Bar:
  """A progress bar, drawn in place."""

  def __init__(self, run: RunInfo) -> None:
    self._total, self._speed = run.total_env_steps, Speed()
    self._progress = Progress(
      BarColumn(),
      TaskProgressColumn(),
      TextColumn("{task.description}"),
      console=Console(stderr=True),
    )
    start = status({"env_steps": run.resumed_at}, None, self._total)
    self._task = self._progress.add_task(start, total=self._total, completed=run.resumed_at)
    self._progress.start()

  def write(self, row: Mapping[str, float]) -> None:
    text = status(row, self._speed(row), self._total)
    self._progress.update(self._task, completed=row["env_steps"], description=text)

  def write_episodes(self, episodes: Sequence[Episode]) -> None:
    del episodes

  def close(self) -> None:
    self._progress.stop()


class _Lines:
  """Plain lines, for a stderr that is no terminal."""

  def __init__(self, run: RunInfo, interval: float) -> None:
    self._total, self._interval, self._speed = run.total_env_steps, interval, Speed()
    self._due, self._unsaid = 0.0, ""

  def write(self, row: Mapping[str, float]) -> None:
    self._unsaid = status(row, self._speed(row), self._total)
    if row["wall_time"] >= self._due:
      self._say()
      self._due = row["wall_time"] + self._interval

  def write_episodes(self, episodes: Sequence[Episode]) -> None:
    del episodes

  def close(self) -> None:
    if self._unsaid:  # how the run ended
      self._say()

  def _say(self) -> None:
    print(self._unsaid, file=sys.stderr, flush=True)
    self._unsaid = ""

"""How far something is, on stderr: a bar on a terminal, else a line now and then."""

import datetime
import math
import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

CENTURY = 100 * 365 * 86_400  # seconds; more than a few million years no timedelta holds
WINDOW = 30.0  # seconds that speed and ETA are measured over


class Display:
  """Shows `1,200/5,000 steps | 300 steps/s | ETA 0:00:12`; ends as a context manager or by `close`.

  Speed and ETA are rich's. They count this process only, and from the second step on: the time
  before the first one is compilation.
  """

  def __init__(
    self, total: int, unit: str, begun: int = 0, interval: float = 10.0, silent: float = 0.0
  ):
    """Begins to show.

    Args:
      total: how many there will be.
      unit: of what, such as 'steps'.
      begun: how many there are already.
      interval: seconds between lines.
      silent: seconds before the first line; what is over by then is worth none.
    """
    console = Console(stderr=True)
    self._unit, self._interval, self._silent = unit, interval, silent
    self._start, self._now, self._moved = time.monotonic(), 0.0, 0.0  # seconds
    self._drawn = sys.stderr.isatty() and not console.is_dumb_terminal
    self._due, self._unsaid = silent, ""
    self._shown: tuple[int, tuple[str, ...]] | None = None
    self._progress = Progress(
      BarColumn(),
      TaskProgressColumn(),
      TextColumn("{task.description}", markup=False),
      console=console,
      disable=not self._drawn,
      get_time=lambda: self._now,
    )
    self._task = self._progress.add_task("", total=total, completed=begun)
    self._progress.update(self._task, description=self._text())
    self._progress.start()

  def __enter__(self) -> "Display":
    return self

  def __exit__(self, *ended: Any) -> None:
    self.close()

  def show(self, completed: int, *more: str, now: float | None = None) -> None:
    """Shows how many there are by now.

    Args:
      completed: of the total.
      more: is shown behind it.
      now: seconds since any beginning; None for those since this one's.
    """
    self._now = time.monotonic() - self._start if now is None else now
    if (completed, more) == self._shown and self._now < self._due:
      return  # an evaluation asks at every step
    self._shown = completed, more
    if completed > self._progress.tasks[0].completed:
      # rich forgets what is older; two points must be left, however rarely one comes.
      self._progress.speed_estimate_period = max(WINDOW, self._now - self._moved)
      self._progress.update(self._task, completed=completed)
      self._progress.speed_estimate_period = math.inf
      self._moved = self._now
    self._unsaid = self._text(*more)
    self._progress.update(self._task, description=self._unsaid)
    if self._now >= self._due:
      self._say()

  def print(self, line: str) -> None:
    """Prints a line of its own, above the bar."""
    self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

  def close(self) -> None:
    """Ends; the last line, if it is still to be said, is how it ended."""
    self._progress.stop()
    if self._unsaid and self._now >= self._silent:
      self._say()

  def _say(self) -> None:
    if not self._drawn:
      print(self._unsaid, file=sys.stderr, flush=True)
    self._unsaid, self._due = "", self._now + self._interval

  def _text(self, *more: str) -> str:
    task = self._progress.tasks[0]
    parts = [f"{task.completed:,}/{task.total:,} {self._unit}"]
    if task.speed:
      left = max(0.0, task.remaining or 0.0) / task.speed
      speed = [f"{task.speed:,.0f} {self._unit}/s"] if task.speed >= 0.5 else []
      parts += [*speed, f"ETA {datetime.timedelta(seconds=round(min(left, CENTURY)))}"]
    return " | ".join([*parts, *more])

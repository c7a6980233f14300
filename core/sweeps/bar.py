"""How far a sweep of processes is: a bar on a terminal, else a line a point."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..api.errors import shortened
from .file import Outcome, Sweep, bindings
from .results import ranked


class Bar:
  """A context manager."""

  def __init__(self, sweep: Sweep, total: int):
    self._sweep = sweep
    self._bar = Progress(
      BarColumn(),
      MofNCompleteColumn(),
      TimeElapsedColumn(),
      TextColumn("{task.description}", markup=False),
      console=Console(stderr=True),
      disable=not sys.stderr.isatty(),
    )
    self._task = self._bar.add_task("", total=total)

  def __enter__(self) -> "Bar":
    self._bar.start()
    return self

  def __exit__(self, *ended: Any) -> None:
    self._bar.stop()

  def show(self, outcomes: Sequence[Outcome], running: int) -> None:
    """How all points are."""
    failed = sum(outcome.status == "failed" for outcome in outcomes)
    ended = sum(outcome.status != "pending" for outcome in outcomes)
    parts = [f"{running} running", *([f"{failed} failed"] if failed else [])]
    best = ranked(self._sweep, outcomes)[0] if outcomes else None
    if best is not None and best.metric is not None:
      parts.append(f"best {self._sweep.metric} {best.metric:.4g}")
    self._bar.update(self._task, completed=ended, description=" | ".join(parts))

  def ended(self, number: int, outcome: Outcome, log: Path) -> None:
    """A line about a point that has ended."""
    what = f"point {number} ({shortened(', '.join(bindings(outcome.point)))}) {outcome.status}"
    if outcome.status == "failed":
      lines = log.read_text("utf-8", "replace").split("\n") if log.exists() else []
      said = [line.removeprefix("selftune: ") for line in lines if line.strip()]
      what += f": {shortened(said[-1]) if said else 'it said nothing'} (all of it: {log})"
    elif outcome.metric is not None:
      what += f": {self._sweep.metric} {outcome.metric:.4g}"
    self._bar.console.print(f"selftune: {what}", markup=False, highlight=False, soft_wrap=True)

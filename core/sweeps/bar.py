"""How far a sweep of processes is: a bar on a terminal, and a line for each point that ended."""

import math
from collections.abc import Sequence
from pathlib import Path

from ..api.display import Display
from ..api.errors import shortened
from .file import Outcome, Sweep, bindings
from .results import ranked


def begin(total: int) -> Display:
  """Shows points of which there are `total`; without a terminal the lines of `ended` are enough."""
  return Display(total, "points", silent=math.inf)


def show(display: Display, sweep: Sweep, outcomes: Sequence[Outcome], running: int) -> None:
  """Shows how all points are."""
  failed = sum(outcome.status == "failed" for outcome in outcomes)
  parts = [f"{running} running", *([f"{failed} failed"] if failed else [])]
  best = ranked(sweep, outcomes)[0] if outcomes else None
  if best is not None and best.metric is not None:
    parts.append(f"best {sweep.metric} {best.metric:.4g}")
  display.show(sum(outcome.status != "pending" for outcome in outcomes), *parts)


def ended(sweep: Sweep, number: int, outcome: Outcome, log: Path) -> str:
  """A line about a point that has ended."""
  what = f"point {number} ({shortened(', '.join(bindings(outcome.point)))}) {outcome.status}"
  if outcome.status == "failed":
    lines = log.read_text("utf-8", "replace").split("\n") if log.exists() else []
    said = [line.removeprefix("selftune: ") for line in lines if line.strip()]
    what += f": {shortened(said[-1]) if said else 'it said nothing'} (all of it: {log})"
  elif outcome.metric is not None:
    what += f": {sweep.metric} {outcome.metric:.4g}"
  return f"selftune: {what}"

"""How far points in processes are: a bar on a terminal, and a line for each that ended."""

import math
from collections.abc import Sequence
from pathlib import Path

from ..api.display import Display
from ..api.errors import shortened
from .file import Outcome


def begin(total: int, unit: str = "points") -> Display:
  """Shows points of which there are `total`; without a terminal the lines of `ended` are enough."""
  return Display(total, unit, silent=math.inf)


def show(display: Display, outcomes: Sequence[Outcome], running: int, more: str = "") -> None:
  """Shows how all points are, and something more."""
  failed = sum(outcome.status == "failed" for outcome in outcomes)
  parts = f"{running} running", f"{failed} failed" if failed else "", more
  ended = sum(outcome.status != "pending" for outcome in outcomes)
  display.show(ended, *filter(None, parts))


def ended(what: str, outcome: Outcome, log: Path, metric: str) -> str:
  """A line about a point that has ended; of one that failed, with the last line of its log."""
  what += f" {outcome.status}"
  if outcome.status == "failed":
    what += f": {said(log)} (all of it: {log})"
  elif outcome.metric is not None:
    what += f": {metric} {outcome.metric:.4g}"
  return f"selftune: {what}"


def said(log: Path) -> str:
  """The last that a process said."""
  # Native code writes to the log, too, and a kill may cut a character in two.
  lines = log.read_text("utf-8", "replace").split("\n") if log.exists() else []
  found = [line.removeprefix("selftune: ") for line in lines if line.strip()]
  return shortened(found[-1]) if found else "it said nothing"

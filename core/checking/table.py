"""The checks of a target, made one after the other, and the table of what came of them."""

import contextlib
import math
import sys
from collections.abc import Sequence
from typing import Any

from ..api.display import Display
from .rows import FAILED, SKIPPED, Check, Row, first_failure, made

SILENT = 5.0  # seconds; what is over by then needs no progress


def make(checks: Sequence[Check]) -> list[Row]:
  """Makes checks in order, and shows on stderr how far it is; returns their rows."""
  rows: list[Row] = []
  failed: set[str] = set()
  with Display(len(checks), "checks", silent=SILENT) as display:
    for n, check in enumerate(checks):
      display.show(n, f"{check.part}: {check.name}")
      with contextlib.redirect_stdout(sys.stderr):  # libraries greet whoever uses them
        rows.append(made(check, failed))
      if rows[-1].verdict == FAILED:
        failed.add(check.part)
  return rows


def text(rows: Sequence[Row]) -> str:
  """Returns the table to read: what was checked, the verdict, the number, and what it is."""
  header = ("what", "check", "verdict", "number", "")
  cells = [(r.part, r.check, r.verdict, _number(r.number), _cut(r)) for r in rows]
  # Notes come last and may be long: they set no width.
  widths = [
    max(map(len, column)) for column in zip(header[:4], *(c[:4] for c in cells), strict=True)
  ]
  lines, before = [], ""
  for n, (part, *rest) in enumerate([header, *cells]):
    shown = [part if part != before or not n else "", *rest]
    before = part
    padded = [x.ljust(width) for x, width in zip(shown, (*widths, 0), strict=True)]
    lines.append("  ".join(padded).rstrip())
  return "\n".join(lines)


def document(target: str, rows: Sequence[Row]) -> dict[str, Any]:
  """Returns the same for JSON; `failed` is the first row that did, or None."""
  failed = first_failure(rows)
  return {
    "target": target,
    "ok": failed is None,
    "failed": failed and _fields(failed),
    "rows": [_fields(row) for row in rows],
  }


def summary(target: str, rows: Sequence[Row]) -> str:
  """Says in one line what came of it; where something failed, what was the first."""
  failed = first_failure(rows)
  if failed is None:
    skipped = sum(row.verdict == SKIPPED for row in rows)
    left = f", {skipped} not made" if skipped else ""
    return f"{target}: {len(rows) - skipped} checks hold{left}."
  number = "" if failed.number is None else f" ({_number(failed.number)})"
  return f"{target}: {failed.part}, {failed.check}: {failed.note}{number}"


def _fields(row: Row) -> dict[str, Any]:
  """Returns a row by field; a number that is none is None, as JSON has no other."""
  finite = row.number is not None and math.isfinite(row.number)
  return row._replace(number=row.number if finite else None)._asdict()


def _number(x: float | None) -> str:
  return "" if x is None else f"{x:.1e}"


def _cut(row: Row) -> str:
  """Returns a note as the table has it: of what failed, whole."""
  return row.note if row.verdict == FAILED or len(row.note) <= 60 else f"{row.note[:57]}..."

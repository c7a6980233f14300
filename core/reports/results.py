"""Results of a study: a CSV with a row for each run, from selftune or from anywhere else.

Columns: `agent`, `environment`, `seed`, `score`; and, where there are any,
`setting:<name>`, `status`, `auc`, `env_steps`, `wall_time`, and `first:<name>` and `last:<name>` of
numbers that tuned themselves. A row without a score is a run that is missing.
"""

import csv
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..api import files
from ..api.errors import UserError, did_you_mean
from ..record.labels import told

FINISHED, DIVERGED = "finished", "diverged"
NEEDED = ("agent", "environment", "seed", "score")
NUMBERS = ("score", "auc", "env_steps", "wall_time")
COLUMNS = ("agent", "environment", "seed", "status", *NUMBERS)
SETTING, FIRST, LAST = "setting:", "first:", "last:"
HUGE = 1e300  # far enough below the greatest float that differences and sums of scores are finite

Setting = tuple[tuple[str, Any], ...]  # name and value of what varies, in order of the columns


class Row(NamedTuple):
  """A run; a number is NaN where it is not known."""

  agent: str
  environment: str
  setting: Setting
  seed: str
  status: str = FINISHED  # or `diverged`; any other is of a run that is missing, as is no score
  score: float = math.nan
  auc: float = math.nan  # mean return over all of training
  env_steps: float = math.nan
  wall_time: float = math.nan  # seconds
  first: Mapping[str, float] = {}  # numbers that tuned themselves, as they began
  last: Mapping[str, float] = {}  # and ended

  @property
  def label(self) -> str:
    """What run it is, in words."""
    return f"{self.agent} on {self.environment}, {described(self.setting)}, seed {self.seed}"


class Results(NamedTuple):
  """The runs of A agents in E environments, each agent with settings of its own."""

  environments: list[str]  # E
  settings: dict[str, list[Setting]]  # agent -> H of its own
  scores: dict[str, np.ndarray]  # agent -> [E, H, S]; NaN where there is no such run
  rows: list[Row]
  missing: list[str]  # what is not counted as it is, a line each


def described(setting: Setting) -> str:
  """Describes a setting in words."""
  return told(dict(setting)) or "as configured"


def write(path: Path, rows: Sequence[Row]) -> None:
  """Writes the CSV, whole or not at all; raises as `files.whole`."""
  named = lambda sets: list(dict.fromkeys(itertools.chain.from_iterable(sets)))
  settings = named(dict(row.setting) for row in rows)
  tuned = named(row.last for row in rows)
  more = [f"{SETTING}{k}" for k in settings], [f"{k}{n}" for n in tuned for k in (FIRST, LAST)]
  with files.whole(path) as file:
    out = csv.writer(file, lineterminator="\n")
    out.writerow([*COLUMNS[:2], *more[0], *COLUMNS[2:], *more[1]])
    for row in rows:
      of_setting = dict(row.setting)
      moved = (x.get(name, math.nan) for name in tuned for x in (row.first, row.last))
      numbers = (getattr(row, name) for name in NUMBERS)
      out.writerow(
        [
          *(row.agent, row.environment, *(of_setting.get(name, "") for name in settings)),
          *(row.seed, row.status, *map(_written, numbers), *map(_written, moved)),
        ]
      )


def _written(number: float) -> str:
  return "" if math.isnan(number) else f"{number:.7g}"


def read(path: Path) -> tuple[list[Row], list[str]]:
  """Reads a CSV of results.

  Returns:
    Its rows, and the names of columns that mean nothing here.

  Raises:
    UserError: it is no such file, a number is none, or a run is there twice.
  """
  (_, header), *lines = _lines(path)
  columns = [name.strip() for name in header]
  if lost := [name for name in NEEDED if name not in columns]:
    near = did_you_mean(lost[0], columns)
    raise UserError(f"{path}: there is no column {lost[0]}.{near} It needs: {', '.join(NEEDED)}.")
  if twice := sorted({name for name in columns if columns.count(name) > 1}):
    raise UserError(f"{path}: column {twice[0] or 'without a name'} is there twice.")
  prefixed = (SETTING, FIRST, LAST)
  unknown = [name for name in columns if name not in COLUMNS and not name.startswith(prefixed)]
  rows, seen = [], {}
  for number, cells in lines:
    where = f"{path}: line {number}"
    if len(cells) != len(columns):
      raise UserError(f"{where}: {len(cells)} cells for {len(columns)} columns.")
    row = _row(dict(zip(columns, map(str.strip, cells), strict=True)), where)
    # A run is what agent, environment, setting and seed say.
    if (key := row[:4]) in seen:
      raise UserError(f"{where}: {row.label} is also in line {seen[key]}.")
    seen[key] = number
    rows.append(row)
  if not rows:
    raise UserError(f"{path} has no row.")
  return rows, unknown


def _lines(path: Path) -> list[tuple[int, list[str]]]:
  """Reads the lines of a CSV that hold anything, with their numbers; the first one is its header.

  Columns without a name and without a cell, as spreadsheets write them, are left out.

  Raises:
    UserError: it cannot be read, or is no CSV.
  """
  # Spreadsheets may begin a file with a byte order mark, which would be a part of a column's name.
  lines = csv.reader(files.read(path).removeprefix("\ufeff").splitlines())
  try:
    found = [(lines.line_num, cells) for cells in lines if any(cells)] or [(1, [])]
  except csv.Error as error:
    raise UserError(f"{path}: line {lines.line_num} is no CSV: {error}.") from error
  (_, header), *rows = found
  unnamed = [i for i, name in enumerate(header) if not name.strip()]
  empty = {
    i for i in unnamed if not any(cell.strip() for _, row in rows for cell in row[i : i + 1])
  }
  return [(n, [cell for i, cell in enumerate(row) if i not in empty]) for n, row in found]


def _row(cells: Mapping[str, str], where: str) -> Row:
  of = lambda prefix: {k.removeprefix(prefix): v for k, v in cells.items() if k.startswith(prefix)}

  def number(name: str, text: str) -> float:
    try:
      value = float(text) if text else math.nan
    except ValueError:
      value = math.inf
    # Also for what is no number at all: NaN is kept for what is not known.
    if abs(value) > HUGE:
      raise UserError(f"{where}: {name} is '{text}': write a number up to {HUGE:g}, or nothing.")
    return value

  for name in ("agent", "environment", "seed"):
    if not cells[name]:
      raise UserError(f"{where}: {name} is empty.")
  first, last = (
    {k: number(prefix + k, text) for k, text in of(prefix).items() if text}
    for prefix in (FIRST, LAST)
  )
  return Row(
    cells["agent"],
    cells["environment"],
    tuple((name, _value(text)) for name, text in of(SETTING).items() if text),
    cells["seed"],
    cells.get("status") or FINISHED,
    **{name: number(name, cells.get(name, "")) for name in NUMBERS},
    first=first,
    last=last,
  )


def _value(text: str) -> Any:
  """Reads a value of a setting: 0.10 is 0.1; text where it is no finite number."""
  try:
    value = float(text)
  except ValueError:
    return text
  # NaN would equal no other setting, and Python alone takes the layers 64_64 for 6464.
  return value if math.isfinite(value) and "_" not in text else text


def arranged(rows: Sequence[Row]) -> Results:
  """Arranges runs by agent, environment and setting; which seed each had does not matter.

  A run that diverged counts with the least score that any run has in its environment: to leave it
  out would flatter settings that diverge now and then.

  Args:
    rows: of which no two are of one run.

  Raises:
    UserError: not one run has a score.
  """
  names = _distinct(row.agent for row in rows)
  environments = _distinct(row.environment for row in rows)
  finished = [row for row in rows if row.status == FINISHED and not math.isnan(row.score)]
  if not finished:
    raise UserError("no run has a score yet.")
  # What a run that diverged counts with; NaN where nothing in the environment has a score.
  least = {
    e: min((row.score for row in finished if row.environment == e), default=math.nan)
    for e in environments
  }
  settings = {a: _distinct(row.setting for row in rows if row.agent == a) for a in names}
  missing, scores = [], {}
  for agent in names:
    cells: dict[tuple[str, Setting], list[Row]] = {}
    for row in rows:
      if row.agent == agent:
        cells.setdefault((row.environment, row.setting), []).append(row)
    # How many seeds there were to be, the fullest cell tells.
    most = max(map(len, cells.values()))
    shape = len(environments), len(settings[agent]), most
    scores[agent] = np.full(shape, math.nan)
    for e, environment in enumerate(environments):
      for h, setting in enumerate(settings[agent]):
        mine = cells.get((environment, setting), [])
        for s, row in enumerate(mine):
          scores[agent][e, h, s], said = _counted(row, least[environment])
          missing += [f"{row.label}: {said}"] if said else []
        if len(mine) < most:
          which = f"{agent} on {environment}, {described(setting)}"
          missing.append(f"{which}: {most - len(mine)} of {most} runs are not there")
  return Results(environments, settings, scores, list(rows), missing)


def _counted(row: Row, least: float) -> tuple[float, str]:
  """Returns the score that a run counts with, and what is to be said of it, '' if nothing is."""
  if row.status == DIVERGED:
    return least, "diverged; counts with the least score of its environment"
  if row.status != FINISHED:
    return math.nan, row.status
  return row.score, "it has no score" if math.isnan(row.score) else ""


def _distinct(values: Iterable[Any]) -> list[Any]:
  return list(dict.fromkeys(values))

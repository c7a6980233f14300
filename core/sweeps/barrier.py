"""Where a population of processes stands, on the disk: members meet at a barrier, and exchange.

OUT holds `lineage.jsonl`, `metrics.jsonl` and, of the last exchange, the checkpoints of parents in
`exchanges/`: a parent trains on, and removes its own, before its copy may have begun. An exchange
counts once `standing.json` says so, which is written whole; what a kill left half-done before that
is done again, with the same draws.
"""

import json
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from ..api import files, jsonl
from ..api.errors import RunError
from ..record import lineage
from ..record.episodes import WINDOW
from ..record.lineage import Exchange
from ..record.segment import Reached
from ..runs.logs import folder
from ..runs.population import Rules
from ..runs.rows import summary
from ..runs.standing import Standing

FILE, KEPT, METRICS = "standing.json", "exchanges", "metrics.jsonl"


class Barrier(NamedTuple):
  """What the last exchange came to; at first, the start."""

  standing: Standing
  parents: Sequence[int]  # [R]
  env_steps: Sequence[int]  # [R] that each member goes on from: its parent's
  updates: Sequence[int]  # [R] likewise
  logged_at: int = 0  # env steps of all members together, in the logs

  @property
  def number(self) -> int:
    """The number of the exchange; 0 is the start."""
    return self.standing.exchanges


def begin(out: Path, rules: Rules) -> Barrier:
  """Goes on from the last exchange that counts, or begins."""
  found = _read(out) if (out / FILE).exists() else _first(rules)
  lineage.begin(out / lineage.FILE, found.logged_at)
  if not found.number:
    # `lineage.begin` has dropped the rows of the start as well, if a killed start left any.
    lineage.append(out / lineage.FILE, lineage.start(rules.first).rows(0))
  # Later rows are of an exchange that did not count, and that writes them again; -1 drops all.
  jsonl.truncate(out / METRICS, found.logged_at or -1)
  # This removes also what a kill left of the exchange after it, or of the one before.
  _tidy(out, found.number)
  return found


def exchange(
  out: Path, rules: Rules, before: Barrier, reached: Sequence[Reached]
) -> tuple[Barrier, Exchange]:
  """Makes an exchange between members that have all reached it.

  Args:
    out: folder of the population.
    rules: of the population.
    before: the exchange before.
    reached: what each member came to; it is not done.

  Returns:
    Where the population stands now; and what the exchange was.

  Raises:
    RunError: all members diverged, or the disk does not take what is written.
    UserError: a plugin gives what it must not.
  """
  diverged = np.array([it.diverged for it in reached])
  if diverged.all():
    raise RunError(
      f"all members of {out} diverged before exchange {before.number + 1}: begin anew, in another "
      "--out, with narrower bounds."
    )
  env_steps, updates = steps_of(before, reached), [it.updates for it in reached]
  most = max(steps for steps, it in zip(env_steps, reached, strict=True) if not it.diverged)
  # The caller makes no exchange once a member has come to its end.
  none_ended = np.zeros(len(reached), bool)
  standing, made = rules.exchange(counted(out, before), diverged, none_ended, most)
  parents = made.parents.tolist()
  # A copy goes on from its parent's counts: its next segment and `counted` begin there.
  learned = [[counts[parent] for parent in parents] for counts in (env_steps, updates)]
  after = Barrier(standing, parents, *learned, logged_at=sum(env_steps))
  # The order matters. All that the next segments need is on the disk before `_commit` makes the
  # exchange count; a kill before that repeats it, from the same scores and so with the same result.
  # What the exchange before needed is removed only afterwards.
  _keep(out, after)
  lineage.append(out / lineage.FILE, made.rows(after.logged_at))
  log(out, after.logged_at, made.before)
  _commit(out, after)
  _tidy(out, after.number)
  return after, made


def parent_of(out: Path, barrier: Barrier, member: int) -> str | None:
  """The checkpoint PATH@STEP that a member goes on from as a copy; None where it is none."""
  parent = barrier.parents[member]
  if parent == member:
    return None
  # The path is absolute, as a Ray task may run in another folder.
  return f"{_kept(out, barrier.number, parent).absolute()}@{barrier.updates[member]}"


def counted(out: Path, barrier: Barrier) -> Standing:
  """The standing with the episodes of each member that ended since an exchange."""
  found = []
  # `since` is what its parent had made: the episodes of a copy count on from there.
  for member, since in enumerate(barrier.env_steps):
    rows = [row for row in _episodes(out, member) if row["env_steps"] > since]
    found.append([(row["return"], row["length"]) for row in rows])
  return barrier.standing.counted(found)


def steps_of(before: Barrier, reached: Sequence[Reached]) -> list[int]:
  """Env steps of each member; of one that diverged, those that it began with."""
  pairs = zip(before.env_steps, reached, strict=True)
  return [began if it.diverged else it.env_steps for began, it in pairs]


def returns_of(out: Path, members: int) -> list[float]:
  """Mean return of the last hundred episodes of each member, [R]; NaN where none has ended."""
  last = [[row["return"] for row in _episodes(out, k)][-WINDOW:] for k in range(members)]
  return [fmean(returns) if returns else math.nan for returns in last]


def log(out: Path, env_steps: int, settings: lineage.Settings) -> None:
  """Writes a row on all members to the population's own log, as one on the device has it."""
  members = len(next(iter(settings.values())))
  of_each = {"episode_return": returns_of(out, members)}
  of_each |= {f"{lineage.SETTINGS}{name}": values for name, values in settings.items()}
  row = summary({name: np.asarray(values, float) for name, values in of_each.items()})
  with (out / METRICS).open("a", encoding="utf-8") as file:
    file.write(jsonl.encode({"env_steps": env_steps, **row}))


def finish(out: Path, last: Barrier, env_steps: int) -> None:
  """Logs how members ended, who have made so many env steps together; once is as good as twice."""
  jsonl.truncate(out / METRICS, last.logged_at or -1)
  log(out, env_steps, last.standing.settings)


def _episodes(out: Path, member: int) -> list[dict[str, Any]]:
  path = folder(out, member) / "episodes.jsonl"
  rows = jsonl.read(path) if path.is_file() else ()
  return [row for row in rows if jsonl.is_number(row.get("return"))]


def _first(rules: Rules) -> Barrier:
  none = [0] * rules.size
  return Barrier(rules.begin(), list(range(rules.size)), none, none)


def _read(out: Path) -> Barrier:
  saved = json.loads(files.read(out / FILE))
  return Barrier(**{**saved, "standing": Standing.from_json(saved["standing"])})


def _commit(out: Path, barrier: Barrier) -> None:
  # `to_json` makes lists of arrays, and text of NaN, which JSON lacks.
  document = barrier._asdict() | {"standing": barrier.standing.to_json()}
  files.write(out / FILE, json.dumps(document))


def _kept(out: Path, number: int, parent: int) -> Path:
  """Where an exchange keeps the checkpoint of a parent, as a workdir has it."""
  return out / KEPT / str(number) / f"{parent:03d}"


def _keep(out: Path, barrier: Barrier) -> None:
  """Keeps the checkpoints that copies go on from."""
  shutil.rmtree(out / KEPT / str(barrier.number), ignore_errors=True)  # what a kill left
  # One copy of each parent is enough here: its `updates` are the parent's.
  copies = {parent: k for k, parent in enumerate(barrier.parents) if parent != k}
  for parent, copy in copies.items():
    name = Path("checkpoints", str(barrier.updates[copy]))
    kept = _kept(out, barrier.number, parent) / name
    try:
      shutil.copytree(folder(out, parent) / name, kept, copy_function=_link)
    except (OSError, shutil.Error) as error:
      raise RunError(f"cannot copy the checkpoint of member {parent} to {kept}: {error}") from error


def _link(source: str, target: str) -> None:
  """Gives a file another name, where the disk can: no checkpoint is ever written to again."""
  try:
    os.link(source, target)
  except OSError:
    shutil.copy2(source, target)


def _tidy(out: Path, number: int) -> None:
  """Removes the checkpoints of other exchanges than this one."""
  for kept in (out / KEPT).glob("*"):
    if kept.name != str(number):
      shutil.rmtree(kept, ignore_errors=True)

"""A population whose members are processes or Ray tasks, for agents that fill a machine.

Every member trains to the next exchange, in a workdir of its own below OUT/runs/, and there waits
for the others.
"""

import csv
import math
from collections import Counter
from pathlib import Path

import numpy as np

from ..api import files
from ..api.display import Display
from ..api.errors import RunError
from ..record import plotting, segment
from ..record.lineage import Exchange
from ..record.segment import Reached, Segment
from ..runs.logs import folder
from . import bar, barrier, results
from .barrier import Barrier
from .launch import Launcher, Processes, Ray, Task, each
from .population_file import Crowd
from .sweep import alone, ready, same, say

TRIES = 2  # starts of a member between two exchanges, after which the command gives up


def population(
  found: Crowd, out: Path | None, workers: int | None = None, launcher: str = "auto"
) -> bool:
  """Trains a population, or goes on with it; then prints its table, and writes it and its plot.

  Args:
    found: what the file says.
    out: folder; None takes runs/sweeps/<name of the file>.
    workers: members at a time; None leaves it to the launcher.
    launcher: `auto` and `processes` are the same, or `ray`.

  Returns:
    Whether it has been trained to its end: not where a signal stopped it.

  Raises:
    UserError: a mistake in any of these; nothing was created then.
    RunError: a member failed twice, all of them diverged, or Ray is not to be had.
  """
  out = ready(found.path, out, workers, launcher)
  # Ray is joined before `out` is made: a cluster that does not answer leaves nothing behind.
  ray = Ray(workers) if launcher == "ray" else None
  with alone(out) as lock:
    same(found.path, found.says, out)
    runner: Launcher = ray or Processes(workers, lock)
    say(f"{found.rules.size} members, each a process of its own, {runner.workers} at a time.")
    at = barrier.begin(out, found.rules)
    with bar.begin(_segments(found), "segments") as display:
      # Signals are waited for in `_train` alone. One that comes amid an exchange ends the process,
      # which like any kill leaves an exchange that counts, or one that is made again.
      while reached := _train(found, out, at, runner, display):
        # All members end at the same step; only one that diverged does not say that it is done.
        if any(it.done for it in reached):
          break
        at, made = barrier.exchange(out, found.rules, at, reached)
        display.print(f"selftune: {_told(made)}")
    if not reached:
      say("stopped; the same command goes on.")
      return False
    _show(found, out, at, reached)
  return True


def _segments(found: Crowd) -> int:
  """How many parts members train in all: each has one more than there are exchanges."""
  every = found.rules.population.every_env_steps
  return found.rules.size * math.ceil(found.total_env_steps / every)


def _train(
  found: Crowd, out: Path, at: Barrier, runner: Launcher, display: Display
) -> list[Reached]:
  """Trains every member to the next exchange, or its end; returns [] if a signal stopped it.

  Raises:
    RunError: one failed twice.
  """
  members = range(found.rules.size)
  # What an earlier start of the command has trained since the exchange counts.
  reached = {k: it for k in members if (it := segment.read(folder(out, k), at.number))}
  waiting = [k for k in members if k not in reached]
  tries: Counter[int] = Counter()

  def further() -> tuple[int, Task] | None:
    # A member has failed for good: no other is started, and those under way come to the exchange.
    if not waiting or TRIES in tries.values():
      return None
    k = waiting.pop(0)
    due, parent = at.standing.due, barrier.parent_of(out, at, k)
    part = Segment(at.number, due, found.varied, parent).to_text()
    bindings = found.of_member(k, at.standing.settings)
    return k, Task(found.experiment, folder(out, k), bindings, part)

  def ended(k: int, code: int) -> None:
    # The file counts, and not the exit code: a member that diverged ends with an error.
    if it := segment.read(folder(out, k), at.number):
      reached[k] = it
      if it.diverged:
        display.print(f"selftune: member {k} diverged: {_said(out, k)}")
      return
    tries[k] += 1
    # It goes to the end of the queue: all others are started before it may fail for good.
    waiting.append(k)
    if tries[k] < TRIES:
      early = f"ended too early, with exit code {code}, and is started once more"
      display.print(f"selftune: member {k} {early}: {_said(out, k)}")

  # Each member has trained one segment before each exchange.
  begun, best = len(members) * at.number, _best(at)
  looked = lambda running: display.show(begun + len(reached), f"{running} running", *best)
  if each(further, runner, looked, ended):
    return []
  lost = next((k for k in members if tries[k] == TRIES), None)
  if lost is not None:
    raise RunError(
      f"member {lost} failed {TRIES} times after exchange {at.number}: {_said(out, lost)}. Once "
      "that is mended, the same command goes on."
    )
  return [reached[k] for k in members]


def _said(out: Path, member: int) -> str:
  """The last that a member said, and where all of it is."""
  log = folder(out, member) / "log.txt"
  return f"{bar.said(log)} (all of it: {log})"


def _best(at: Barrier) -> list[str]:
  """What the bar says of the last exchange."""
  scores = at.standing.began[np.isfinite(at.standing.began)]
  return [f"best score {scores.max():.4g}"] if len(scores) else []


def _told(made: Exchange) -> str:
  """A line about an exchange."""
  scores = ", ".join(f"{score:.4g}" for score in made.scores)
  copies = [f"{k} is a copy of {p}" for k, p in enumerate(made.parents) if k != p]
  return f"exchange {made.number}: scores {scores}; {', '.join(copies) or 'nobody is replaced'}."


def _show(found: Crowd, out: Path, at: Barrier, reached: list[Reached]) -> None:
  """Prints and writes what the members came to, the best first, and draws the curves."""
  settings, size = at.standing.settings, found.rules.size
  env_steps = barrier.steps_of(at, reached)
  barrier.finish(out, at, sum(env_steps))
  returns = barrier.returns_of(out, size)
  columns = ["run", "seed", *settings, "episode_return", "env_steps", "diverged"]
  rows = [
    [
      *(k, found.rules.seed + k, *(values[k] for values in settings.values())),
      *(returns[k], env_steps[k], reached[k].diverged),
    ]
    for k in range(size)
  ]
  with files.whole(out / "runs.csv") as file:
    csv.writer(file, lineterminator="\n").writerows([columns, *rows])
  diverged = np.array([it.diverged for it in reached])
  best = barrier.counted(out, at).best(diverged)
  # The best first, then the others by return, diverged ones last. Columns are counted from the end,
  # as those of settings are in the middle.
  # NaN, where no episode ended, would leave the others unsorted.
  worth = lambda row: -math.inf if math.isnan(row[-3]) else row[-3]
  results.print_table(columns, sorted(rows, key=lambda row: (row[0] != best, row[-1], -worth(row))))
  plotting.plot([out], out / "curves.png")
  print(f"{out / 'runs.csv'} and {out / 'curves.png'}; the best is {folder(out, best)}")

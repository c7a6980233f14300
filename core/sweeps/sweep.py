"""`selftune sweep`: every point of a W&B sweep file, on this machine or by Ray; resumable.

OUT holds `points.jsonl`, a workdir for each point in `runs/`, and at the end `sweep.csv` and
`sweep.png`. Where only numbers of plugins and seeds vary, and the experiment runs on the device,
all points are one compiled program, whose own workdir is OUT.
"""

import contextlib
import itertools
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import config
from ..api import files, jsonl
from ..api.errors import UserError, shortened
from ..machine import lock
from ..record.workdir import identity
from ..runs.logs import folder
from . import bar
from . import results as sweep_results
from .file import Outcome, Point, Points, Sweep, bindings
from .launch import GRACE, Launcher, Processes, Ray, Task, each, import_ray
from .outcomes import outcome_of, outcomes_of, status_of, unlogged
from .program import Fields, apart_because, fields_of, together

CONFIGURATION = "configuration"  # in what is kept of a folder: `identity` of its points
MANY = 500  # points; reading the configurations of more takes seconds, and is announced


def sweep(
  found: Sweep, out: Path | None, workers: int | None = None, launcher: str = "auto"
) -> bool:
  """Trains what is missing of a sweep; then prints its table, and writes it and its plot.

  Args:
    found: what the sweep file says.
    out: folder; None takes runs/sweeps/<name of the file>.
    workers: points at a time, where they are not one program; None leaves it to the launcher.
    launcher: `auto`, `processes` or `ray`.

  Returns:
    Whether every point has been trained: not where one failed, or a signal stopped the sweep.

  Raises:
    UserError: a mistake in any of these, or in a point, but for those that `bayes` has yet to
      choose; nothing was created then. Or points have ended, and none has logged the metric that
      `bayes` learns from.
    RunError: Ray is not to be had.
  """
  out = ready(found.path, out, workers, launcher)
  # These points are kept nowhere: a mistake in one of them is to leave no folder behind.
  loaded, fields = _check(found, Points(found).further())
  # Ray is joined before `out` is made: a cluster that does not answer leaves nothing behind.
  ray = Ray(workers) if launcher == "ray" else None
  with alone(out) as lock:
    # run_cap and metric may change: more points, or another ranking, of the same sweep.
    says = {k: found.config[k] for k in ("method", "parameters", "command")}
    # What points set is kept with them, and another release of the library may draw others.
    drawn = {*fields, *itertools.chain.from_iterable(fields.values())}
    configuration = {k: v for k, v in identity(loaded).items() if k.split("/")[-1] not in drawn}
    same(found.path, says | {CONFIGURATION: configuration}, out)
    points = Points(found, out / "points.jsonl")
    # Points are kept before the first one trains: their numbers name folders, in every start.
    if not found.bayes:
      points.add(points.further())
    if found.config.get("early_terminate"):
      say("early_terminate is for W&B's agents: here every point runs to its end.")
    why_not = apart_because(loaded.root, points.asked, fields, found.bayes, launcher)
    if why_not is None:
      say(f"{len(points.asked)} points as one program: only numbers and seeds vary.")
      stopped = together(found.experiment, found.bindings, loaded.root, points.asked, out, fields)
      outcomes = outcomes_of(out, points.asked, found.metric)
      if problem := unlogged(out, outcomes, found.metric):
        say(problem)
    else:
      runner: Launcher = ray or Processes(workers, lock)
      say(f"a process a point, {runner.workers} at a time, because {why_not}.")
      outcomes, stopped = _apart(found, points, out, runner)
    if stopped:
      say("stopped; the same command goes on.")
      return False
    if found.bayes and unlogged(out, outcomes, found.metric):
      raise UserError(
        f"{found.path}: bayes learns from a metric, and no point has logged {found.metric}: write "
        "metric: {name: NAME, goal: maximize}, and the same command goes on."
      )
    sweep_results.show(found, outcomes, out)
  return all(outcome.status in ("finished", "diverged") for outcome in outcomes)


def ready(file: Path, out: Path | None, workers: int | None, launcher: str) -> Path:
  """Checks what a command was asked for; returns its folder, by the name of its file if None.

  Raises:
    UserError: a mistake in any of these; nothing was created.
  """
  if workers is not None and workers < 1:
    raise UserError(f"--workers {workers} must be at least 1.")
  if launcher == "ray":
    # This asks whether Ray is installed; its cluster is joined once all that is asked for is known.
    import_ray()
  out = out or Path("runs", "sweeps", file.stem)
  files.check_folder(out, f"--out {out}")
  return out


def _check(found: Sweep, points: Sequence[Point]) -> tuple[config.Loaded, Fields]:
  """Loads every point's configuration, as training will.

  Returns:
    That of the first, and the fields that each name of the points sets.

  Raises:
    UserError: names the first point that cannot be loaded, and why.
  """
  if not points:
    raise UserError(f"{found.path} has no point.")
  if len(points) > MANY:
    say(f"reading the configurations of {len(points):,} points.")
  loaded = []
  for number, point in enumerate(points):
    try:
      loaded.append(config.load(found.experiment, (*found.bindings, *bindings(point))))
    except UserError as error:
      raise UserError(f"{found.path}: point {number}: {shortened(str(error))}") from error
  return loaded[0], fields_of([it.flat for it in loaded], points)


def _apart(found: Sweep, points: Points, out: Path, runner: Launcher) -> tuple[list[Outcome], bool]:
  """Trains each point in a process; returns how they ended, and whether a signal stopped it."""
  outcomes = outcomes_of(out, points.asked, found.metric)
  if problem := unlogged(out, outcomes, found.metric):
    say(problem)
  # Those that failed in an earlier start are pending, and so tried again.
  waiting = [k for k, outcome in enumerate(outcomes) if outcome.status == "pending"]

  def further() -> tuple[int, Task] | None:
    # Bayes chooses a point when a worker is free, by all results that are there by then; without
    # any it would draw at random.
    if not waiting and found.bayes and not problem and (new := points.further(outcomes)):
      points.add(new)
      waiting.append(len(outcomes))
      outcomes.append(Outcome(new[0], "pending"))
    if not waiting:
      return None
    number = waiting.pop(0)
    binds = (*found.bindings, *bindings(points.asked[number]))
    return number, Task(found.experiment, folder(out, number), binds)

  def ended(number: int, code: int) -> None:
    nonlocal problem
    outcome = outcome_of(folder(out, number), points.asked[number], found.metric)
    # A process that a signal stopped ends with 0, too: the disk has it as pending.
    outcomes[number] = outcome if code == 0 else outcome._replace(status=status_of(code))
    log = folder(out, number) / "log.txt"
    what = f"point {number} ({shortened(', '.join(bindings(points.asked[number])))})"
    display.print(bar.ended(what, outcomes[number], log, found.metric))
    before, problem = problem, unlogged(out, outcomes, found.metric)
    if problem and not before:
      display.print(f"selftune: {problem}")

  # Of the points that bayes has yet to choose only the number is known.
  total = found.count if found.bayes and found.count else len(outcomes)
  with bar.begin(total) as display:
    looked = lambda running: bar.show(display, outcomes, running, _best(found, outcomes))
    stopped = each(further, runner, looked, ended)
  return outcomes, stopped


def _best(found: Sweep, outcomes: Sequence[Outcome]) -> str:
  """What the bar says of the best point so far."""
  # There may be no first one: bayes begins without any outcome.
  values = [outcome.metric for outcome in sweep_results.ranked(found, outcomes)[:1]]
  return "".join(f"best {found.metric} {x:.4g}" for x in values if x is not None)


@contextlib.contextmanager
def alone(out: Path) -> Iterator[int]:
  """Within it no other sweep works in `out`; yields the file descriptor that holds the lock.

  The processes of a killed sweep hold it too, until they have saved and ended.

  Raises:
    UserError: another one does, or the folder cannot be written.
  """
  with contextlib.ExitStack() as stack:
    try:
      out.mkdir(parents=True, exist_ok=True)
      # The lock is waited for as long as points of a killed sweep may take to save and end.
      advice = "another sweep, or points of one that was killed; choose another --out."
      held = stack.enter_context(lock.alone(out / "lock", advice, GRACE, keep=True))
    except OSError as error:
      raise UserError(
        f"cannot write to {out}: {files.reason(error)}. Choose another --out."
      ) from error
    yield held.descriptor


def same(file: Path, says: Mapping[str, Any], out: Path) -> None:
  """Keeps what the sweep is; raises UserError if `out` holds another one than its file says."""
  path = out / "sweep.json"
  if differs(path, says):
    raise UserError(f"{out} holds another sweep than {file}: choose another --out.")
  files.write(path, as_text(says))


def differs(path: Path, says: Mapping[str, Any]) -> bool:
  """Says whether a file of `as_text` is there that says something else.

  Of the configuration that counts which both have: an older version of selftune has kept none, or
  one without settings that came later.
  """
  if not path.exists():
    return False
  kept = next(jsonl.read(path), {})
  then, now = (of.get(CONFIGURATION, {}) for of in (kept, says))
  rest = (as_text({**of, CONFIGURATION: None}) for of in (kept, says))
  return len(set(rest)) > 1 or any(then[name] != now[name] for name in then.keys() & now.keys())


def as_text(says: Mapping[str, Any]) -> str:
  """Writes what a folder holds as a line of JSON."""
  # YAML knows values that JSON lacks, such as dates: they are compared as text.
  return json.dumps(says, sort_keys=True, default=str)


def say(message: str) -> None:
  print(f"selftune: {message}", file=sys.stderr)

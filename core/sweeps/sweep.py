"""`selftune sweep`: every point of a W&B sweep file, on this machine or by Ray; resumable.

OUT holds `points.jsonl`, a workdir for each point in `runs/`, and at the end `sweep.csv` and
`sweep.png`. Where only numbers of plugins and seeds vary, and the experiment runs on the device,
all points are one compiled program, whose own workdir is OUT.
"""

import contextlib
import itertools
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import config
from .. import train as training
from ..api import files, jsonl
from ..api.contracts import ForAllRuns
from ..api.errors import UserError, shortened
from ..api.registry import name_of
from ..machine import lock, platform
from ..record.workdir import Workdir
from ..runs import settings
from ..runs.independent import varied
from ..runs.logs import folder
from . import bar
from . import results as sweep_results
from .file import Outcome, Point, Points, Sweep, bindings
from .launch import GRACE, Job, Launcher, Processes, Ray, import_ray

POLL = 0.2  # seconds between looks at the processes
MANY = 500  # points, whose configurations take some seconds to read


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
      choose; nothing was created then.
    RunError: Ray is not to be had.
  """
  if workers is not None and workers < 1:
    raise UserError(f"--workers {workers} must be at least 1.")
  if launcher == "ray":
    import_ray()
  out = out or Path("runs", "sweeps", found.path.stem)
  files.check_folder(out, f"--out {out}")
  root = _check(found, Points(found).further())
  ray = Ray(workers) if launcher == "ray" else None
  with _alone(out) as lock:
    _same(found, out)
    points = Points(found, out / "points.jsonl")
    if not found.bayes:
      points.add(points.further())
    if found.config.get("early_terminate"):
      _say("early_terminate is for W&B's agents: here every point runs to its end.")
    why_not = apart_because(root, points.asked, found.bayes, launcher)
    if why_not is None:
      _say(f"{len(points.asked)} points as one program: only numbers and seeds vary.")
      stopped = _together(found, root, points.asked, out)
      outcomes = _outcomes(found, out, points.asked)
    else:
      runner: Launcher = ray or Processes(workers, lock)
      _say(f"a process a point, {runner.workers} at a time, because {why_not}.")
      outcomes, stopped = _apart(found, points, out, runner)
    if stopped:
      _say("stopped; the same command goes on.")
      return False
    sweep_results.show(found, outcomes, out)
  return all(outcome.status in ("finished", "diverged") for outcome in outcomes)


def _check(found: Sweep, points: Sequence[Point]) -> Any:
  """Loads every point's configuration, as training will; returns the experiment of the first.

  Raises:
    UserError: names the first point that cannot be loaded, and why.
  """
  if not points:
    raise UserError(f"{found.path} has no point.")
  if len(points) > MANY:
    _say(f"reading the configurations of {len(points):,} points.")
  roots = []
  for number, point in enumerate(points):
    try:
      roots.append(config.load(found.experiment, (*found.bindings, *bindings(point))).root)
    except UserError as error:
      raise UserError(f"{found.path}: point {number}: {shortened(str(error))}") from error
  return roots[0]


def apart_because(
  root: Any, points: Sequence[Point], bayes: bool, launcher: str = "auto"
) -> str | None:
  """Why the points cannot be one program; None if they can.

  Args:
    root: the experiment.
    points: of the sweep.
    bayes: whether later points depend on the results of earlier ones.
    launcher: what the user asked for.
  """
  if launcher != "auto":
    return f"of --launcher {launcher}"
  if bayes:
    return "bayes chooses a point by the results of those before it"
  if root.runs is None:
    return f"train.runtime is @{name_of(root.runtime)}(), not @runs()"
  if root.runs.settings or root.runs.repeats > 1:
    return "a point is several runs (runs.settings = {} and runs.repeats = 1 make it one)"
  numbers = {"train.seed", *dict(settings.numbers(varied(root)))}
  for name, value in itertools.chain.from_iterable(point.items() for point in points):
    if name not in numbers:
      return f"{name} is no number that can vary in one program"
    if _number(value) is None:
      return f"{name} is {value!r} in one of them"
  return None


def _number(value: Any) -> float | None:
  """The value as a number, also of text that gin reads as one."""
  try:
    return None if isinstance(value, bool) else float(value)
  except (TypeError, ValueError):
    return None


def _together(found: Sweep, root: Any, points: Sequence[Point], out: Path) -> bool:
  """Trains all points as one program; returns whether a signal stopped it."""
  if Workdir(out).done.exists() and not folder(out, len(points) - 1).exists():
    raise UserError(
      f"{out} holds fewer points, trained as one program that has ended: choose another --out."
    )
  values = {name: tuple(_number(point[name]) for point in points) for name in points[0]}
  of_all = [writer for writer in root.writers if isinstance(writer, ForAllRuns)]
  of_each = [writer for writer in root.writers if writer not in of_all]
  # What a run must not lose is logged of all together, too: the whole has a history of its own.
  of_all = [writer for writer in of_each if writer.required] + of_all
  listed = lambda writers: f"({''.join(f'@{name_of(writer)}(), ' for writer in writers)})"
  more = (
    f"runs.settings = {values!r}",
    "runs.paired = True",
    f"runs.run_writers = {listed(of_each)}",
    f"train.writers = {listed(of_all)}",
  )
  if not training.finish(found.experiment, (*found.bindings, *more), out):
    return True
  for number in range(len(points)):
    files.write(Workdir(folder(out, number)).done, "")
  return False


def _apart(found: Sweep, points: Points, out: Path, runner: Launcher) -> tuple[list[Outcome], bool]:
  """Trains each point in a process; returns how they ended, and whether a signal stopped it."""
  outcomes = _outcomes(found, out, points.asked)
  waiting = [k for k, outcome in enumerate(outcomes) if outcome.status == "pending"]
  running: dict[int, Job] = {}

  def next_number() -> int | None:
    if not waiting and found.bayes and (new := points.further(outcomes)):
      points.add(new)
      waiting.append(len(outcomes))
      outcomes.append(Outcome(new[0], "pending"))
    return waiting.pop(0) if waiting else None

  total = found.count if found.bayes and found.count else len(outcomes)
  with platform.stop_signals() as stopping, bar.begin(total) as display:
    more = True
    while (more or running) and not stopping():
      while more and len(running) < runner.workers:
        number = next_number()
        more = number is not None
        if number is not None:
          binds = (*found.bindings, *bindings(points.asked[number]))
          running[number] = runner.start(found.experiment, folder(out, number), binds)
      bar.show(display, found, outcomes, len(running))
      time.sleep(POLL)
      for number in [k for k, job in running.items() if job.poll() is not None]:
        outcome = _outcome(found, folder(out, number), points.asked[number])
        if running.pop(number).poll() != 0:
          outcome = outcome._replace(status="failed")
        outcomes[number] = outcome
        display.print(bar.ended(found, number, outcome, folder(out, number) / "log.txt"))
    _stop(running)
  return outcomes, stopping()


def _stop(running: Mapping[int, Job]) -> None:
  """Lets the processes save and end."""
  for job in running.values():
    job.stop()
  deadline = time.monotonic() + GRACE
  while any(job.poll() is None for job in running.values()) and time.monotonic() < deadline:
    time.sleep(POLL)


def _outcomes(found: Sweep, out: Path, points: Sequence[Point]) -> list[Outcome]:
  return [_outcome(found, folder(out, number), point) for number, point in enumerate(points)]


def _outcome(found: Sweep, workdir: Path, point: Point) -> Outcome:
  """How a point ended, by what its workdir says; pending if it does not say."""
  if not Workdir(workdir).done.exists():
    return Outcome(point, "pending")
  path = workdir / "metrics.jsonl"
  last: dict[str, Any] = {}
  for row in jsonl.read(path) if path.exists() else ():
    last |= {name: value for name, value in row.items() if jsonl.is_number(value)}
  status = "diverged" if last.get("runs/diverged") else "finished"
  return Outcome(
    point, status, last.get(found.metric), last.get("env_steps", 0), last.get("wall_time", 0.0)
  )


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[int]:
  """Within it no other sweep works in `out`; yields the file descriptor that holds the lock.

  The processes of a killed sweep hold it too, until they have saved and ended.

  Raises:
    UserError: another one does, or the folder cannot be written.
  """
  with contextlib.ExitStack() as stack:
    try:
      out.mkdir(parents=True, exist_ok=True)
      advice = "another sweep, or points of one that was killed; choose another --out."
      held = stack.enter_context(lock.alone(out / "lock", advice, GRACE, keep=True))
    except OSError as error:
      raise UserError(
        f"cannot write to {out}: {files.reason(error)}. Choose another --out."
      ) from error
    yield held.descriptor


def _same(found: Sweep, out: Path) -> None:
  """Keeps what the sweep is; raises UserError if `out` holds another one."""
  path = out / "sweep.json"
  mine = {k: found.config[k] for k in ("method", "parameters", "command")}
  text = json.dumps(mine, sort_keys=True, default=str)
  if path.exists() and files.read(path) != text:
    raise UserError(f"{out} holds another sweep than {found.path}: choose another --out.")
  files.write(path, text)


def _say(message: str) -> None:
  print(f"selftune: {message}", file=sys.stderr)

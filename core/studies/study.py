"""`selftune study`: trains what is missing of a study, and reports what tuning is worth.

OUT holds `study.csv`, `index.html` and its figures. `cells/<agent>/<environment>` in it is a folder
as a sweep has: `points.jsonl`, and a workdir for each run in `runs/`. Of a population there is such
a folder for each seed, `cells/<agent>/<environment>/<seed>`.
"""

import datetime
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .. import config
from ..api import files
from ..api.errors import UserError, plugin_mistakes, shortened
from ..api.registry import name_of
from ..record.workdir import Workdir, identity
from ..reports import results, statistics
from ..reports.study_page import report
from ..runs.exchanges import check_every
from ..runs.logs import folder
from ..runs.settings import laid_out
from ..sweeps import bar
from ..sweeps.file import bindings
from ..sweeps.launch import Launcher, Processes, Ray, Task, each, import_ray
from ..sweeps.library import Outcome, Point
from ..sweeps.outcomes import status_of
from ..sweeps.point import DIVERGED
from ..sweeps.program import Fields, apart_because, bindings_of_all, fields_of, together
from ..sweeps.sweep import CONFIGURATION, MANY, alone, as_text, differs, say
from .file import SEED, Cell, Study
from .measure import measure

# These make one run of an experiment that is many by itself: the study has runs of its own.
ONE_RUN = ("runs.settings = {}", "runs.repeats = 1")


class Plan(NamedTuple):
  """A cell, and how it is trained.

  Where its runs are a population, the cell has one seed, and its settings are the members.
  """

  cell: Cell
  root: Any  # its experiment
  constant: Point  # what is equal in all its settings, which may be more than numbers
  fields: Fields  # what the names of the others set
  apart: str | None  # why its runs are processes; None where they are one program
  configuration: dict[str, str]  # `identity` of its first setting, but for the seed
  crowd: bool = False  # its runs are a population

  @property
  def name(self) -> str:
    """The cell in words, for messages."""
    seed = f", seed {self.cell.seeds[0]}" if self.crowd else ""
    return f"{self.cell.agent} on {self.cell.environment}{seed}"

  @property
  def program(self) -> tuple[tuple[str, ...], list[Point]]:
    """The bindings of all its runs as one program, and what varies."""
    points = _varied(self.cell.points, self.constant)
    if not self.crowd:
      return (*self.cell.bindings, *bindings(self.constant)), points
    # Exchanges draw from the seed of the population; no two members of a cell have the same one.
    (seed,), size = self.cell.seeds, len(points)
    constant = {**self.constant, SEED: seed, "population.first": "'given'"}
    points = [{**point, SEED: seed * size + member} for member, point in enumerate(points)]
    return (*self.cell.bindings, *bindings(constant)), points

  def path(self, out: Path) -> Path:
    """Returns the folder of the cell."""
    folder = out / "cells" / self.cell.agent / self.cell.environment
    return folder / str(self.cell.seeds[0]) if self.crowd else folder


def study(
  found: Study,
  out: Path | None,
  workers: int | None = None,
  launcher: str = "auto",
  resamples: int = 2000,
) -> bool:
  """Trains what is missing; then writes the report and prints its table.

  Args:
    found: what the study file says.
    out: folder; None takes runs/studies/<name of the file>.
    workers: processes at a time; None leaves it to the launcher.
    launcher: `auto`, `processes` or `ray`.
    resamples: of the report's bootstraps.

  Returns:
    Whether every run has ended: not where one failed, or a signal stopped the study.

  Raises:
    UserError: a mistake in any of these, or in a configuration; nothing was created then.
    RunError: a program cannot go on, or Ray is not to be had.
  """
  for name, value in (("workers", workers), ("resamples", resamples)):
    if value is not None and value < 1:
      raise UserError(f"--{name} {value} must be at least 1.")
  if launcher == "ray":
    import_ray()
  out = out or Path("runs", "studies", found.path.stem)
  files.check_folder(out, f"--out {out}")
  statistics.rliable()  # or it says so now, and not when all is trained
  if (many := sum(len(cell.settings) for cell in found.cells)) > MANY:
    say(f"reading {many:,} configurations.")
  # All configurations are loaded now: a mistake in the last one shows before the first run.
  plans = [plan for cell in found.cells for plan in _plans(found, cell, launcher)]
  ray = Ray(workers) if launcher == "ray" else None
  with alone(out) as lock:
    # All cells are compared with the folder before any of them is trained.
    for plan in plans:
      _keep(found, plan, out)
    stopped = _programs([plan for plan in plans if plan.apart is None], out)
    # The exit codes are those of this start; what an earlier one trained is known by its `done`.
    codes: dict[Path, int] = {}
    if not stopped:
      runner: Launcher = ray or Processes(workers, lock)
      stopped = _processes([p for p in plans if p.apart is not None], out, runner, codes)
    if stopped:
      say("stopped; the same command goes on.")
      return False
    rows = [row for plan in plans for row in _rows(plan, out, found.last, codes)]
    results.write(out / "study.csv", rows)
    print(report(rows, out, resamples))
    print(f"{out / 'index.html'}\n{out / 'study.csv'}")
  return all(row.status in (results.FINISHED, results.DIVERGED) for row in rows)


def _plans(found: Study, cell: Cell, launcher: str) -> list[Plan]:
  """Returns how a cell is trained: at once, or of populations one after the other.

  Raises:
    UserError: its configuration cannot be loaded, or its runs can be no population.
  """
  plan = _plan(found, cell, launcher)
  if not plan.crowd:
    return [plan]
  named = f"{found.path}: {cell.agent} on {cell.environment}"
  if plan.apart is not None:
    raise UserError(f"{named}: a population is one program, and cannot be: {plan.apart}.")
  # Each seed is a program of its own, checked with the bindings that it is trained with.
  plans = [plan._replace(cell=plan.cell._replace(seeds=[seed])) for seed in cell.seeds]
  try:
    with plugin_mistakes():
      for of_seed in plans:
        binds, points = of_seed.program
        more = bindings_of_all(plan.root, points, plan.fields)
        whole = config.load(cell.experiment, (*binds, *more)).root
        laid_out(whole, whole.runs)
        check_every(whole, whole.runs)
  except UserError as error:
    raise UserError(f"{named}: {error}") from error
  return plans


def _plan(found: Study, cell: Cell, launcher: str) -> Plan:
  """Loads the configuration of every setting, as training will.

  Raises:
    UserError: names the first that cannot be loaded, and why.
  """
  # A message names the cell, and once settings are read the setting as well.
  where = named = f"{found.path}: {cell.agent} on {cell.environment}"
  try:
    runs = config.load(cell.experiment, cell.bindings).root.runs
    crowd = runs is not None and runs.population is not None
    if runs is not None and (runs.settings or runs.repeats > 1):
      cell = cell._replace(bindings=(*cell.bindings, *ONE_RUN))
    loaded = []
    for setting in cell.settings:
      where = f"{named}, {results.described(tuple(setting.items()))}"
      # The first seed stands for all, which spares reading every point.
      binds = (*cell.bindings, *bindings({**setting, SEED: cell.seeds[0]}))
      loaded.append(config.load(cell.experiment, binds))
  except UserError as error:
    raise UserError(f"{where}: {shortened(str(error))}") from error
  root, first = loaded[0].root, cell.settings[0]
  if "jsonl" not in map(name_of, root.writers):
    raise UserError(f"{named}: a study reads logs: put @jsonl() among train.writers.")
  # A value that no setting varies is bound for all runs, and so may be more than a number.
  constant = {k: v for k, v in first.items() if all(s[k] == v for s in cell.settings)}
  points = _varied(cell.points, constant)
  # `fields_of` takes one point a setting, as in `loaded`: seeds of a setting lie side by side.
  fields = fields_of([it.flat for it in loaded], points[:: len(cell.seeds)])
  apart = apart_because(root, points, fields, launcher=launcher, crowd=crowd)
  # Without the seed: each seed of a population has a folder of its own.
  configuration = {name: value for name, value in identity(loaded[0]).items() if name != SEED}
  return Plan(cell, root, constant, fields, apart, configuration, crowd)


def _varied(points: Sequence[Point], constant: Point) -> list[Point]:
  return [{k: v for k, v in point.items() if k not in constant} for point in points]


def _keep(found: Study, plan: Plan, out: Path) -> None:
  """Keeps what the cell is; raises UserError if its folder holds another one."""
  path, cell = plan.path(out), plan.cell
  mine = {"experiment": cell.experiment, "bindings": cell.bindings, "points": cell.points}
  mine[CONFIGURATION] = plan.configuration
  if differs(path / "cell.json", mine):
    raise UserError(f"{path} holds other runs than {found.path} has now: choose another --out.")
  files.make_folder(path)
  # `plot` labels the runs by points.jsonl. cell.json is written last: where it is, all is there.
  files.write(path / "points.jsonl", "".join(json.dumps(p) + "\n" for p in cell.points))
  files.write(path / "cell.json", as_text(mine))


def _programs(plans: Sequence[Plan], out: Path) -> bool:
  """Trains each cell as one program; returns whether a signal stopped it."""
  # The last run is marked last: before that a kill may have left some unmarked.
  last = lambda plan: Workdir(folder(plan.path(out), len(plan.cell.points) - 1))
  waiting = [plan for plan in plans if not last(plan).done.exists()]
  # The pace counts what this start trains: programs that had ended took none of its time.
  begun, made = time.monotonic(), 0
  left = sum(len(plan.cell.points) for plan in waiting)
  for number, plan in enumerate(waiting, 1):
    runs = len(plan.cell.points)
    ends = ""
    if made:
      seconds = round((time.monotonic() - begun) / made * left)
      ends = f"; all are done in {datetime.timedelta(seconds=seconds)}, at the pace so far"
    say(f"program {number} of {len(waiting)}: {plan.name}, {runs} runs{ends}.")
    binds, points = plan.program
    if together(plan.cell.experiment, binds, plan.root, points, plan.path(out), plan.fields):
      return True
    made, left = made + runs, left - runs
  return False


def _processes(plans: Sequence[Plan], out: Path, runner: Launcher, codes: dict[Path, int]) -> bool:
  """Trains runs as processes, and keeps their exit codes; returns whether a signal stopped it."""
  for plan in plans:
    say(f"{plan.name}: a process a run, because {plan.apart}.")
  # All cells share a queue, so that no worker waits for the end of a cell.
  tasks = [(plan, number) for plan in plans for number in range(len(plan.cell.points))]
  workdirs = [folder(plan.path(out), number) for plan, number in tasks]
  ended = [Workdir(workdir).done.exists() for workdir in workdirs]
  outcomes = [
    Outcome(plan.cell.points[k], "finished" if done else "pending")
    for (plan, k), done in zip(tasks, ended, strict=True)
  ]
  waiting = [k for k, done in enumerate(ended) if not done]
  if not waiting:
    return False

  def further() -> tuple[int, Task] | None:
    if not waiting:
      return None
    k = waiting.pop(0)
    plan, number = tasks[k]
    binds = (*plan.cell.bindings, *bindings(plan.cell.points[number]))
    return k, Task(plan.cell.experiment, workdirs[k], binds)

  def one_ended(k: int, code: int) -> None:
    plan, number = tasks[k]
    codes[workdirs[k]] = code
    # A process that a signal stopped ends with 0, too: the disk has it as pending.
    done = "finished" if Workdir(workdirs[k]).done.exists() else "pending"
    outcomes[k] = outcomes[k]._replace(status=done if code == 0 else status_of(code))
    point = shortened(", ".join(bindings(plan.cell.points[number])))
    log = workdirs[k] / "log.txt"
    display.print(bar.ended(f"{plan.name} ({point})", outcomes[k], log, "score"))

  with bar.begin(len(tasks)) as display:
    looked = lambda running: bar.show(display, outcomes, running)
    return each(further, runner, looked, one_ended)


def _rows(plan: Plan, out: Path, last: float, codes: dict[Path, int]) -> list[results.Row]:
  """Tells what each run of a cell came to, in order of its points.

  Args:
    plan: the cell.
    out: folder of the study.
    last: the part of training whose episodes the score is of.
    codes: exit codes of the processes, by workdir.
  """
  cell, rows = plan.cell, []
  share = len(cell.points) if plan.apart is None else 1  # the clock of a program is that of all
  for number, point in enumerate(cell.points):
    setting = tuple((name, value) for name, value in point.items() if name != SEED)
    row = results.Row(cell.agent, cell.environment, setting, str(point[SEED]))
    workdir = folder(plan.path(out), number)
    if Workdir(workdir).done.exists():
      of = measure(workdir, last)
      status = results.DIVERGED if of.diverged else results.FINISHED
      if status == results.FINISHED and math.isnan(of.score):
        status = f"no episode ended in the last {last:g} of training"
      numbers = of.score, of.auc, of.env_steps, of.wall_time / share
      row = row._replace(**dict(zip(results.NUMBERS, numbers, strict=True)))
      row = row._replace(status=status, first=of.first, last=of.last)
    # A process that diverged is never marked as done; it has logs, but no score.
    elif codes.get(workdir) == DIVERGED:
      row = row._replace(status=results.DIVERGED)
    else:
      row = row._replace(status=f"failed: {bar.said(workdir / 'log.txt')}")
    rows.append(row)
  return rows

"""How the points of a sweep ended, by what their workdirs say."""

from collections.abc import Sequence
from pathlib import Path

from ..api import jsonl
from ..api.errors import did_you_mean
from ..record.workdir import Workdir
from ..runs.logs import folder
from .library import Outcome, Point
from .point import DIVERGED

LOGS = {"metrics.jsonl": "", "eval.jsonl": "eval/"}  # and what W&B has before the names in it
OF_EPISODES = ("episode_return", "episode_length")  # absent until an episode has ended


def outcomes_of(out: Path, points: Sequence[Point], metric: str) -> list[Outcome]:
  """Reads how each point of a sweep in the folder `out` ended."""
  return [outcome_of(folder(out, k), point, metric) for k, point in enumerate(points)]


def outcome_of(workdir: Path, point: Point, metric: str) -> Outcome:
  """Reads how a point ended; it is pending if its workdir does not say."""
  if not Workdir(workdir).done.exists():
    return Outcome(point, "pending")
  last = _logged(workdir)
  status = "diverged" if last.get("runs/diverged") else "finished"
  steps, seconds = last.get("env_steps") or 0, last.get("wall_time") or 0.0
  return Outcome(point, status, last.get(metric), int(steps), seconds)


def status_of(code: int) -> str:
  """Names how a point ended whose process left an exit code other than 0."""
  return "diverged" if code == DIVERGED else "failed"


def unlogged(out: Path, outcomes: Sequence[Outcome], metric: str) -> str:
  """Says that points have finished and none has logged the metric, and what to write; else ''."""
  ended = [k for k, outcome in enumerate(outcomes) if outcome.status == "finished"]
  if not ended or any(outcome.metric is not None for outcome in outcomes):
    return ""
  names = _logged(folder(out, ended[0]))
  if metric in names:  # though never as a finite number
    return ""
  said = f"point {ended[0]} has finished, and logs no {metric}"
  if metric in OF_EPISODES:
    return f"{said}: no episode has ended in it."
  where = "A metric is a name in its metrics.jsonl, or eval/NAME of its eval.jsonl."
  return f"{said}.{did_you_mean(metric, names)} {where}"


def _logged(workdir: Path) -> dict[str, float | None]:
  """Reads the last number of each name in a run's logs, as not every row has all; None of none."""
  found: dict[str, float | None] = {}
  for log, before in LOGS.items():
    path = workdir / log
    for row in jsonl.read(path) if path.exists() else ():
      for name, value in row.items():
        if jsonl.is_number(value):
          found[before + name] = value
        else:
          found.setdefault(before + name, None)
  return found

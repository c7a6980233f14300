"""What a run of a study is measured by, from the logs in its workdir."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..api import jsonl
from ..record import metrics
from ..record.lineage import SETTINGS
from ..record.plotting import TUNED

SEGMENTS = 100  # of training, of equal length, that the area under the curve is made of


class Measured(NamedTuple):
  """What a run came to; a number is NaN where there is none."""

  score: float  # mean return of the episodes that ended in the last part of training
  auc: float  # mean return over all of training: the area under the curve / its length
  env_steps: float
  wall_time: float  # seconds
  diverged: bool
  first: dict[str, float]  # by number that tunes itself, or a population varies: its first value
  last: dict[str, float]


def measure(workdir: Path, last: float) -> Measured:
  """Reads a run's logs.

  Args:
    workdir: of a run that has ended.
    last: the part of training whose episodes the score is of.
  """
  path = workdir / "metrics.jsonl"
  rows = list(metrics.read(path)) if path.is_file() else []
  steps = [row["env_steps"] for row in rows if jsonl.is_number(row.get("env_steps"))]
  seconds = [row["wall_time"] for row in rows if jsonl.is_number(row.get("wall_time"))]
  tuned: dict[str, list[float]] = {}
  for row in rows:
    for key, value in row.items():
      if jsonl.is_number(value) and (name := _tuned(key)):
        tuned.setdefault(name, []).append(value)
  path = workdir / "episodes.jsonl"
  episodes = jsonl.series(jsonl.read(path) if path.is_file() else (), "return")
  end = max([*steps, *(at for at, _ in episodes)], default=math.nan)
  return Measured(
    score(episodes, end, last),
    area(episodes, end),
    end,
    max(seconds, default=math.nan),
    # A run that diverged stands still: its last row says so, if any does.
    any(row.get("runs/diverged") for row in rows[-1:]),
    {name: values[0] for name, values in tuned.items()},
    {name: values[-1] for name, values in tuned.items()},
  )


def _tuned(metric: str) -> str | None:
  """Names the number whose value a metric is: tuned, varied, or the mean of many that are."""
  if metric.startswith(TUNED):
    return metric.removeprefix(TUNED).removesuffix("/0")  # the first head, and mostly the only one
  if metric.startswith(SETTINGS):
    return metric.removeprefix(SETTINGS)
  return metric if metric.endswith("/mean") and metric.count("/") == 1 else None


def score(episodes: list[tuple[float, float]], end: float, last: float) -> float:
  """Computes the mean return of the episodes that ended in the last part of training.

  Args:
    episodes: env steps and return of each.
    end: env steps of training.
    last: the part, above 0 and up to 1.
  """
  counted = [value for at, value in episodes if at > (1 - last) * end]
  return float(np.mean(counted)) if counted else math.nan


def area(episodes: list[tuple[float, float]], end: float) -> float:
  """Computes the mean return over training, of segments of equal length and their own means.

  So many short episodes weigh no more than few long ones. A segment in which none ended is on a
  straight line between its neighbours; before the first one and after the last one it is theirs.

  Args:
    episodes: env steps and return of each.
    end: env steps of training.
  """
  if not episodes:
    return math.nan
  at, values = np.array(episodes).T
  # An episode that ends where a segment does is of that one: multiplied first, so that it is exact.
  segment = np.clip(np.ceil(at * SEGMENTS / end).astype(int) - 1, 0, SEGMENTS - 1)
  counts = np.bincount(segment, minlength=SEGMENTS)
  means = np.bincount(segment, values, minlength=SEGMENTS) / np.maximum(counts, 1)
  (known,) = np.nonzero(counts)
  return float(np.interp(np.arange(SEGMENTS), known, means[known]).mean())

"""What is said of all runs together: rows of the log, warnings, and the table of runs."""

import csv
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..api import files
from ..api.online import RunState
from ..api.types import Histogram
from ..record.histograms import pooled
from .device import Runs
from .pool import PoolRuns

_LOG = logging.getLogger(__name__)


def summary(metrics: Mapping[str, np.ndarray | Histogram]) -> dict[str, float | Histogram]:
  """Makes a row of metrics of all runs, [R] each: the one's, or their mean, least and greatest.

  A histogram is that of all runs together. What is not finite in some run, as in one that
  diverged, is left out.
  """
  row: dict[str, float | Histogram] = {}
  for name, values in metrics.items():
    if isinstance(values, Histogram):
      row[name] = pooled(values)
      continue
    finite = values[np.isfinite(values)]
    # Of an only run, or where no run has a finite number, it is logged as it is, NaN or not.
    if len(values) == 1 or not len(finite):
      row[name] = float(values[0])
    else:
      row |= {name: float(finite.mean())}
      row |= {f"{name}/least": float(finite.min()), f"{name}/greatest": float(finite.max())}
  return row


def how_far(runs: Runs | PoolRuns, states: RunState) -> dict[str, np.ndarray]:
  """Says which runs are still going, and which diverged, of states [R', ...]: [R] of 0 and 1."""
  return {
    "runs/active": runs.of_each(runs.members.active(states)).astype(int),
    "runs/diverged": (runs.of_each(states.learner.failure) >= 0).astype(int),
  }


def warn_of_failures(names: Sequence[str], failures: np.ndarray) -> None:
  """Warns of runs that diverged because of what a plugin gave.

  Args:
    names: of what may have caused it, see `agent.update.suspects`.
    failures: of the runs, int [R], as in LearnerState.
  """
  # Numbers of failures beyond the suspects are of metrics (`api.failures`), and name no plugin.
  for cause, name in enumerate(names):
    runs = np.flatnonzero(failures == cause)
    if runs.size:
      more = f" and {runs.size - 5} more" if runs.size > 5 else ""
      listed = ", ".join(map(str, runs[:5]))
      _LOG.warning("'%s' was not finite: it ended run %s%s.", name, listed, more)


def write_table(path: Path, runs: Runs | PoolRuns, states: RunState) -> None:
  """Writes what each run is and how far it came, a row for each; whole or not at all.

  Args:
    path: of the CSV file.
    runs: the R runs.
    states: theirs, [R', ...].

  Raises:
    RunError: it cannot be written.
  """
  with files.whole(path) as file:
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(["run", "seed", *runs.members.settings, "episodes", "env_steps", "diverged"])
    ended = (states.finished, states.env_steps, states.learner.failure >= 0)
    columns = (runs.members.seeds, *runs.members.settings.values(), *map(runs.of_each, ended))
    for number, values in enumerate(zip(*columns, strict=True)):
      rows.writerow([number, *(np.asarray(value).item() for value in values)])

"""The report of `selftune report`: agents compared over tasks and seeds, as PNGs and HTML."""

import datetime
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..api import files
from ..api.errors import UserError
from ..record.drawing import save
from . import markup
from .comparison import Comparison, compare
from .figures import bands, bars, figure
from .statistics import AGGREGATES, Estimates, Statistics, statistics

MOST_PAIRS = 500  # of agents in a picture: a PNG has 65,536 rows
_LOG = logging.getLogger(__name__)


def report(
  workdirs: Sequence[Path],
  out: Path,
  at: int | None = None,
  evaluations: bool = False,
  resamples: int = 2000,
  trusted: bool = False,
) -> str:
  """Writes `index.html`, its figures and `report.json` into the folder `out`.

  Args:
    workdirs: of the runs; see `core.reports.comparison` for what becomes of them.
    out: made if it is not there.
    at: env steps at which to compare; None for the end of runs that are all of one length.
    evaluations: scores are those of `eval.jsonl`, not the returns of training.
    resamples: of the bootstrap.
    trusted: modules in the workdirs may be imported.

  Returns:
    The table of aggregates, for the terminal.

  Raises:
    UserError: runs are missing or do not fit together, or `out` is nothing to write to.
    RunError: it cannot be written.
  """
  for name, value in (("at", at), ("resamples", resamples)):
    if value is not None and value < 1:
      raise UserError(f"--{name} {value} must be at least 1.")
  # Before the bootstraps, which take long.
  files.check_folder(out, f"--out {out}")
  comparison = compare(workdirs, at, evaluations, trusted)
  found = statistics(comparison.scores, comparison.curves, resamples)
  score = "normalised score" if comparison.normalised else "return"
  figures = {
    "aggregates": _aggregates(found, comparison, score),
    "profiles": _profiles(found, score),
    "efficiency": _efficiency(found, comparison, score),
  }
  if len(found.improvement.point) > MOST_PAIRS:
    _LOG.warning("improvement.png is left out: too many pairs; report.json has all of them")
  elif found.improvement.point:
    figures["improvement"] = _improvement(found.improvement)
  files.make_folder(out)
  save({out / f"{name}.png": figure for name, figure in figures.items()})
  files.write(out / "report.json", json.dumps(numbers(comparison, found), indent=1) + "\n")
  # After the figures: the page holds the bytes of their files.
  page = _page(comparison, found, score, {name: out / f"{name}.png" for name in figures})
  files.write(out / "index.html", page.encode("utf-8", "backslashreplace").decode())  # odd names
  return markup.text(aggregate_table(comparison, found))


def numbers(comparison: Comparison, found: Statistics) -> dict[str, Any]:
  """Returns the numbers of the page as JSON has them."""

  def listed(estimates: Estimates) -> dict[str, Any]:
    return {
      name: {"point": point.tolist(), "interval": estimates.interval[name].tolist()}
      for name, point in estimates.point.items()
    }

  return {
    "tasks": comparison.tasks,
    "scores": {agent: x.tolist() for agent, x in comparison.scores.items()},
    "normalised": comparison.normalised,
    "env_steps": comparison.env_steps.tolist(),
    "thresholds": found.thresholds.tolist(),
    "aggregates": {"names": AGGREGATES, **listed(found.aggregates)},
    "profiles": listed(found.profiles),
    "improvement": listed(found.improvement),
    "efficiency": listed(found.efficiency),
  }


def aggregate_table(comparison: Comparison, found: Statistics) -> list[list[str]]:
  """Returns header and rows: an agent, its runs a task, each aggregate with its interval."""
  shown = _shown(comparison)
  rows = [["agent", "runs", *(AGGREGATES[i] for i in shown)]]
  for agent, point in found.aggregates.point.items():
    low, high = found.aggregates.interval[agent]
    cells = [f"{point[i]:.3g} ({low[i]:.3g} to {high[i]:.3g})" for i in shown]
    rows.append([agent, str(len(comparison.scores[agent])), *cells])
  return rows


def _shown(comparison: Comparison) -> list[int]:
  """Returns which aggregates mean something: raw returns have no optimum to be away from."""
  # The optimality gap is the last of the four.
  return [i for i, _ in enumerate(AGGREGATES) if comparison.normalised or i < 3]


def _page(comparison: Comparison, found: Statistics, score: str, figures: dict[str, Path]) -> str:
  titles = {
    "aggregates": "Aggregates",
    "profiles": "Performance profiles",
    "efficiency": "Sample efficiency",
    "improvement": "Probability of improvement",
  }
  parts = [markup.table(aggregate_table(comparison, found))]
  for name, path in figures.items():
    parts.append(f"<h2>{titles[name]}</h2>\n{markup.image(name, path)}")
  means = [["task", *comparison.scores]]
  for i, task in enumerate(comparison.tasks):
    columns = (x[:, i] for x in comparison.scores.values())
    means.append([task, *(f"{x.mean():.3g} ± {x.std():.3g}" for x in columns)])
  parts.append(f"<h2>Tasks</h2><p>Mean and standard deviation over runs.</p>{markup.table(means)}")
  differences = [["binding", *comparison.scores]]
  differences += [[name, *row.values()] for name, row in comparison.differences.items()]
  parts.append(f"<h2>Where the agents differ</h2>{markup.table(differences)}")
  runs = [["agent", "seed", "workdir"]]
  runs += [[a, str(r.seed), str(r.path)] for a, mine in comparison.runs.items() for r in mine]
  parts.append(f"<h2>Runs</h2>{markup.table(runs)}")
  introduction = f"""{score.capitalize()} at {comparison.env_steps[-1]:,.0f} env steps over
{len(comparison.tasks)} task(s); {datetime.date.today()}. In brackets and bands: 95 % intervals,
by a bootstrap over runs, stratified by task (rliable; Agarwal et al. 2021). IQM: the mean of the
middle half of all runs."""
  heading = " · ".join(comparison.scores)
  return markup.document("selftune report", heading, introduction, parts)


def _aggregates(found: Statistics, comparison: Comparison, score: str) -> Any:
  shown = _shown(comparison)
  point, interval = found.aggregates
  page, axes = figure(3.2 * len(shown), 1.2 + 0.45 * len(point), len(shown))
  for one, i in zip(axes, shown, strict=True):
    bars(one, list(point), [p[i] for p in point.values()], [v[:, i] for v in interval.values()])
    one.set_title(AGGREGATES[i], fontsize=11)
    if i != shown[0]:
      one.tick_params(labelleft=False)
  page.supxlabel(score, fontsize=10)
  return page


def _improvement(improvement: Estimates) -> Any:
  point, interval = improvement
  page, (axes,) = figure(7.0, 1.2 + 0.45 * len(point))
  bars(axes, list(point), [p[0] for p in point.values()], [v[:, 0] for v in interval.values()])
  # At one half neither agent is the better one.
  axes.axvline(0.5, color="grey", linestyle="--", linewidth=1)
  axes.set_xlim(0, 1)
  axes.set_xlabel("probability that a run of the first scores higher")
  return page


def _profiles(found: Statistics, score: str) -> Any:
  page, (axes,) = figure(8.0, 4.5)
  bands(axes, found.thresholds, found.profiles)
  axes.set_xlabel(f"{score} τ")
  axes.set_ylabel(f"fraction of runs with {score} > τ")
  return page


def _efficiency(found: Statistics, comparison: Comparison, score: str) -> Any:
  from matplotlib.ticker import EngFormatter

  page, (axes,) = figure(8.0, 4.5)
  bands(axes, comparison.env_steps, found.efficiency)
  axes.xaxis.set_major_formatter(EngFormatter(sep=""))
  axes.set_xlabel("env steps")
  axes.set_ylabel(f"IQM {score}")
  return page

"""The report of `selftune report`: agents compared over tasks and seeds, as PNGs and HTML."""

import base64
import datetime
import html
import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..api import files
from ..api.errors import UserError
from ..record.plotting import LEGEND, legend, line_colours, save, shown
from .comparison import Comparison, compare
from .statistics import AGGREGATES, PAIR, Estimates, Statistics, statistics

BESIDE = 28  # characters of a name that there is room for beside bars
MOST_PAIRS = 500  # of agents in a picture: a PNG has 65,536 rows
_LOG = logging.getLogger(__name__)
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { padding: .2rem .8rem; text-align: left; border-bottom: 1px solid #ddd }
img { max-width: 100% }
"""


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
  page = _page(comparison, found, score, {name: out / f"{name}.png" for name in figures})
  files.write(out / "index.html", page.encode("utf-8", "backslashreplace").decode())  # odd names
  return _text(aggregate_table(comparison, found))


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
  return [i for i, _ in enumerate(AGGREGATES) if comparison.normalised or i < 3]


def _text(table: list[list[str]]) -> str:
  widths = [max(map(len, column)) for column in zip(*table, strict=True)]
  lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in table)
  return "\n".join(line.rstrip() for line in lines)


def _page(comparison: Comparison, found: Statistics, score: str, figures: dict[str, Path]) -> str:
  titles = {
    "aggregates": "Aggregates",
    "profiles": "Performance profiles",
    "efficiency": "Sample efficiency",
    "improvement": "Probability of improvement",
  }
  parts = [_table(aggregate_table(comparison, found))]
  for name, path in figures.items():
    data = base64.b64encode(path.read_bytes()).decode()
    parts.append(f'<h2>{titles[name]}</h2>\n<img alt="{name}" src="data:image/png;base64,{data}">')
  means = [["task", *comparison.scores]]
  for i, task in enumerate(comparison.tasks):
    columns = (x[:, i] for x in comparison.scores.values())
    means.append([task, *(f"{x.mean():.3g} ± {x.std():.3g}" for x in columns)])
  parts.append(f"<h2>Tasks</h2><p>Mean and standard deviation over runs.</p>{_table(means)}")
  differences = [["binding", *comparison.scores]]
  differences += [[name, *row.values()] for name, row in comparison.differences.items()]
  parts.append(f"<h2>Where the agents differ</h2>{_table(differences)}")
  runs = [["agent", "seed", "workdir"]]
  runs += [[a, str(r.seed), str(r.path)] for a, mine in comparison.runs.items() for r in mine]
  parts.append(f"<h2>Runs</h2>{_table(runs)}")
  body = "\n".join(parts)
  return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>selftune report</title><style>{STYLE}</style>
<h1>{html.escape(" · ".join(comparison.scores))}</h1>
<p>{score.capitalize()} at {comparison.env_steps[-1]:,.0f} env steps over {len(comparison.tasks)}
task(s); {datetime.date.today()}. In brackets and bands: 95 % intervals, by a bootstrap over runs,
stratified by task (rliable; Agarwal et al. 2021). IQM: the mean of the middle half of all runs.</p>
{body}
</html>
"""


def _table(rows: Iterable[Sequence[str]]) -> str:
  first, *rest = rows

  def line(cells: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

  return "\n".join(["<table>", line(first, "th"), *(line(row, "td") for row in rest), "</table>"])


def _figure(width: float, height: float, columns: int = 1) -> tuple[Any, list[Any]]:
  from matplotlib.figure import Figure  # without pyplot, as in core.record.plotting

  page = Figure(figsize=(width, height), layout="constrained")
  axes = list(page.subplots(1, columns, squeeze=False)[0])
  for one in axes:
    one.spines[["top", "right"]].set_visible(False)
    one.grid(alpha=0.25, linewidth=0.6)
  return page, axes


def _bars(axes: Any, names: Sequence[str], points: Sequence[float], intervals: Any) -> None:
  """Draws a row an agent, the first on top: its interval as a bar, the estimate as a line in it."""
  axes.use_sticky_edges = False  # room beside the bars
  colours = line_colours(len(names))
  for i, (point, (low, high)) in enumerate(zip(points, intervals, strict=True)):
    axes.barh(i, high - low, left=low, height=0.6, color=colours[i], alpha=0.6)
    axes.vlines(point, i - 0.3, i + 0.3, color="black", linewidth=1.5)
  labels = [PAIR.join(shown(part, BESIDE) for part in name.split(PAIR)) for name in names]
  axes.set_yticks(range(len(names)), labels, parse_math=False)
  axes.set_ylim(len(names) - 0.5, -0.5)


def _aggregates(found: Statistics, comparison: Comparison, score: str) -> Any:
  shown = _shown(comparison)
  point, interval = found.aggregates
  page, axes = _figure(3.2 * len(shown), 1.2 + 0.45 * len(point), len(shown))
  for one, i in zip(axes, shown, strict=True):
    _bars(one, list(point), [p[i] for p in point.values()], [v[:, i] for v in interval.values()])
    one.set_title(AGGREGATES[i], fontsize=11)
    if i != shown[0]:
      one.tick_params(labelleft=False)
  page.supxlabel(score, fontsize=10)
  return page


def _improvement(improvement: Estimates) -> Any:
  point, interval = improvement
  page, (axes,) = _figure(7.0, 1.2 + 0.45 * len(point))
  _bars(axes, list(point), [p[0] for p in point.values()], [v[:, 0] for v in interval.values()])
  axes.axvline(0.5, color="grey", linestyle="--", linewidth=1)
  axes.set_xlim(0, 1)
  axes.set_xlabel("probability that a run of the first scores higher")
  return page


def _profiles(found: Statistics, score: str) -> Any:
  page, (axes,) = _figure(8.0, 4.5)
  _bands(axes, found.thresholds, found.profiles)
  axes.set_xlabel(f"{score} τ")
  axes.set_ylabel(f"fraction of runs with {score} > τ")
  return page


def _efficiency(found: Statistics, comparison: Comparison, score: str) -> Any:
  from matplotlib.ticker import EngFormatter

  page, (axes,) = _figure(8.0, 4.5)
  _bands(axes, comparison.env_steps, found.efficiency)
  axes.xaxis.set_major_formatter(EngFormatter(sep=""))
  axes.set_xlabel("env steps")
  axes.set_ylabel(f"IQM {score}")
  return page


def _bands(axes: Any, x: np.ndarray, estimates: Estimates) -> None:
  colours = line_colours(len(estimates.point))
  for colour, (agent, point) in zip(colours, estimates.point.items(), strict=True):
    axes.plot(x, point, color=colour, linewidth=1.8)
    axes.fill_between(x, *estimates.interval[agent], color=colour, alpha=0.18, linewidth=0)
  names = [shown(agent) for agent in estimates.point]
  columns = max(1, min(4, LEGEND // (6 + max(map(len, names)))))
  width, height = axes.figure.get_size_inches()
  axes.figure.set_size_inches(width, height + 0.2 * (-(-len(names) // columns) - 1))
  look = {"loc": "outside upper center", "ncols": columns, "fontsize": 9}
  legend(axes.figure, axes.get_lines(), names, **look)

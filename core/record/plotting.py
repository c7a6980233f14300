"""Pictures of runs, for `selftune plot`: return and self-tuned numbers against env steps, one PNG.

Panels follow from names: one for each `tuned/<number>`, a line a head; one for each metric of the
whole agent, whose name has no `/`, or for the mean of many numbers, `<name>/mean`, which their
histogram `<name>` shades. Other names with a `/` are details, and not drawn. A population has
a panel for each of its settings, see `pedigree`.

Runs of one label, see `labels`, are one line: their mean, in a band of one standard deviation.
"""

import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..api import jsonl
from ..api.errors import UserError
from ..api.types import BINS, OF_CORE, Histogram
from . import lineage, metrics, pedigree
from .drawing import COLOURS, LEGEND, legend, line_colours, save, shown
from .histograms import rebinned
from .labels import holding, labels

Runs = list[list[dict[str, Any]]]  # the rows of each run of a group

GRID = 400  # points that the runs of a group are averaged on
COLUMNS = 3
TUNED = "tuned/"
DECADES = 2  # that positive values span where they are drawn on a log scale
STYLES = ("-", "--", ":", "-.")
NAMED = 200  # lines that the one below the panels names, at most
BESIDE = 60  # characters of a name that a legend among the curves has room for
_LOG = logging.getLogger(__name__)


def plot(workdirs: Sequence[Path], out: Path) -> Path:
  """Draws the runs into the PNG `out`.

  Raises:
    UserError: a workdir has no metrics yet.
    RunError: `out` cannot be written.
  """
  drawn = figure(holding(workdirs, "metrics.jsonl"))
  save({out: drawn})
  return out


def figure(workdirs: Sequence[Path]) -> Any:
  """Draws a matplotlib Figure: the return above; a panel a tuned number, and a metric, below.

  With the mean of many numbers of one run comes how they are distributed, where it was logged.
  """
  # A run that is given twice counts once: it would else be two seeds that agree.
  workdirs = list({os.path.realpath(workdir): workdir for workdir in workdirs}.values())
  groups: dict[str, Runs] = {}
  for workdir, label in zip(workdirs, labels(workdirs), strict=True):
    groups.setdefault(label, []).append(_rows(workdir))
  rows = [row for runs in groups.values() for rows in runs for row in rows]
  names = {key for row in rows for key, value in row.items() if jsonl.is_number(value)}
  alone = workdirs[0] if len(workdirs) == 1 else None
  histograms = {} if alone is None else _histograms(alone)
  end = max(row["env_steps"] for row in rows)
  of_lineage = [] if alone is None else pedigree.panels(lineage.read(alone / lineage.FILE), end)
  return _draw(groups, _panels(names), histograms, of_lineage)


def _panels(names: Iterable[str]) -> dict[str, list[str]]:
  """Sorts metrics into panels, by title, those of tuned numbers first."""
  panels: dict[str, list[str]] = {}
  names = sorted(set(names) - OF_CORE, key=_natural)
  for name in (name for name in names if name.startswith(TUNED)):
    panels.setdefault(name.split("/")[1], []).append(name)
  return panels | {name: [name] for name in names if "/" not in name.removesuffix("/mean")}


def curve(runs: Runs, key: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Averages a metric over the runs of a group: env steps [N], mean [N], standard deviation [N].

  One run is drawn as it is; several are interpolated onto the env steps that all of them reached.
  N is 0 if some run has no finite value of it, or they have no env steps in common.
  """
  series = [np.array(jsonl.series(rows, key), float).reshape(-1, 2) for rows in runs]
  if min(map(len, series)) == 0:
    return np.empty(0), np.empty(0), np.empty(0)
  if len(series) == 1:
    steps, values = series[0].T
    return steps, values, np.zeros_like(values)
  # Where all have values: a mean over fewer runs would jump as they drop out.
  begin, end = max(s[0, 0] for s in series), min(s[-1, 0] for s in series)
  if end < begin:
    return np.empty(0), np.empty(0), np.empty(0)
  steps = np.linspace(begin, end, GRID)
  values = np.stack([np.interp(steps, s[:, 0], s[:, 1]) for s in series])
  return steps, values.mean(0), values.std(0)


def _rows(workdir: Path) -> list[dict[str, Any]]:
  """Reads the rows of a run's metrics.jsonl that have env steps."""
  path = Path(workdir) / "metrics.jsonl"
  if not path.is_file():
    raise UserError(f"{path} does not exist: '{workdir}' is not the workdir of a training run.")
  rows = [row for row in metrics.read(path) if jsonl.is_number(row.get("env_steps"))]
  if not rows:
    raise UserError(f"{path} has no rows: the run '{workdir}' has not logged anything yet.")
  return rows


def _histograms(workdir: Path) -> dict[str, list[tuple[int, Histogram]]]:
  """Reads histograms by name: env steps, and how the numbers were distributed then."""
  path = Path(workdir) / "histograms.jsonl"
  rows = jsonl.read(path) if path.is_file() else ()
  found: dict[str, list[tuple[int, Histogram]]] = {}
  for row in rows:
    name, counts, edges = (row.get(part) for part in ("name", "counts", "edges"))
    # What is no whole histogram is passed over, as `jsonl.read` does with torn lines.
    if not (isinstance(name, str) and isinstance(counts, list) and isinstance(edges, list)):
      continue
    numbers = all(map(jsonl.is_number, [row.get("env_steps"), *counts, *edges]))
    if numbers and len(edges) == len(counts) + 1 and sum(counts) > 0:
      histogram = Histogram(np.array(counts), np.array(edges))
      found.setdefault(name, []).append((row["env_steps"], histogram))
  return found


def _draw(
  groups: Mapping[str, Runs],
  panels: Mapping[str, list[str]],
  histograms: Mapping[str, Sequence[tuple[int, Histogram]]],
  others: Sequence[tuple[str, Callable[[Any], None]]] = (),
) -> Any:
  # Without pyplot: no global state, no display, and `savefig` uses Agg.
  from matplotlib.figure import Figure
  from matplotlib.ticker import EngFormatter

  # The page: returns on top over the whole width, and below that rows of panels.
  all_panels = [*panels.items(), *others]  # of others: what draws them
  columns = min(COLUMNS, len(all_panels)) or 1
  below = -(-len(all_panels) // columns)
  page = Figure(figsize=(max(8.0, 4.0 * columns), 3.6 + 2.3 * below), layout="constrained")
  grid = page.add_gridspec(1 + below, columns, height_ratios=[1.5] + [1.0] * below)
  top = page.add_subplot(grid[0, :])
  colours = line_colours(len(groups))
  for colour, runs in zip(colours, groups.values(), strict=True):
    _line(top, curve(runs, "episode_return"), color=colour, linewidth=1.8)
  top.set_title("Raw episode return, mean of the last 100 episodes", loc="left", fontsize=11)
  if not any(map(len, _values(top))):
    centre = {"transform": top.transAxes, "ha": "center", "va": "center"}
    top.text(0.5, 0.5, "no episode has finished", color="grey", **centre)
  seeds = [f" ({len(runs)} seeds)" if len(runs) > 1 else "" for runs in groups.values()]
  names = [shown(label) + of for label, of in zip(groups, seeds, strict=True)]
  # A few short names have room among the curves; others get rows below all panels.
  if len(groups) <= COLOURS and max(map(len, names)) <= BESIDE:
    legend(top, top.get_lines(), names, fontsize=9)
  else:
    _legend_below(page, top.get_lines(), names)

  told = False  # which line is which head, once
  for i, (title, keys) in enumerate(all_panels):
    row, column = divmod(i, columns)
    last = i == len(all_panels) - 1  # takes what is left of its row
    axes = page.add_subplot(grid[1 + row, slice(column, columns if last else column + 1)])
    axes.sharex(top)
    axes.set_title(shown(title), loc="left", fontsize=10, parse_math=False)
    axes.tick_params(labelsize=8)
    if callable(keys):
      keys(axes)
      continue
    _heads(axes, groups, keys, colours)
    shades = histograms.get(title.removesuffix("/mean"), ())
    if len(shades) > 1:
      _density(axes, shades)
    if len(keys) > 1 and not told:
      heads = [f"head {key.split('/')[-1]}" for key in keys]
      legend(axes, axes.get_lines()[: len(keys)], heads, fontsize=8)
      told = True

  for axes in page.axes:
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.margins(x=0.01)
  # The panels of the last row alone, or the top one where there is no other.
  for axes in page.axes[1 + columns * (below - 1) :] or page.axes:
    axes.set_xlabel("env steps", fontsize=10)
  return page


def _legend_below(page: Any, lines: Sequence[Any], names: Sequence[str]) -> None:
  """Draws a legend of many lines below all panels; the page grows by it, as far as a PNG can."""
  if len(names) > NAMED:
    _LOG.warning("the legend names the first %d of %d lines", NAMED, len(names))
    lines, names = lines[:NAMED], names[:NAMED]
  columns = max(1, LEGEND // (6 + max(map(len, names))))
  width, height = page.get_size_inches()
  page.set_size_inches(width, height + 0.18 * -(-len(names) // columns))
  legend(page, lines, names, loc="outside lower center", ncols=columns, fontsize=8)


def _heads(axes: Any, groups: Mapping[str, Runs], keys: list[str], colours: Sequence[Any]) -> None:
  """Draws a line a head: in colours of their own for one group of runs, else told by dashes."""
  curves = [[curve(runs, key) for key in keys] for runs in groups.values()]
  on_log = _spans_decades(np.concatenate([mean for of_run in curves for _, mean, _ in of_run]))
  for own, of_run in zip(colours, curves, strict=True):
    for j, (steps, mean, deviation) in enumerate(of_run):
      colour, style = (f"C{j}", "-") if len(groups) == 1 else (own, STYLES[j % len(STYLES)])
      if on_log:  # mean - deviation may be negative, so there is no band
        deviation = np.zeros_like(mean)
      look = {"color": colour, "linestyle": style, "linewidth": 1.3}
      _line(axes, (steps, mean, deviation), **look)
  if on_log:
    axes.set_yscale("log", nonpositive="mask")
  else:
    axes.ticklabel_format(axis="y", useOffset=False)


def _spans_decades(values: np.ndarray) -> bool:
  """Says whether a log scale suits values [N]: none is below 0, and most are not of one size."""
  positive = values[values > 0]
  if len(positive) == 0 or values.min() < 0:
    return False
  low, high = np.quantile(positive, (0.05, 0.95))
  return high >= 10**DECADES * low


def _density(axes: Any, histograms: Sequence[tuple[int, Histogram]]) -> None:
  """Shades where values lie: the darker, the more of them (of 1 % as of 100 %, by its root)."""
  steps, found = zip(*histograms, strict=True)
  edges = np.linspace(min(h.edges[0] for h in found), max(h.edges[-1] for h in found), BINS + 1)
  share = np.array([rebinned(h, edges) / h.counts.sum() for h in found])
  middles = (edges[1:] + edges[:-1]) / 2
  axes.pcolormesh(steps, middles, np.sqrt(share.T), cmap="Greys", shading="gouraud", vmin=0, vmax=1)


def _line(axes: Any, points: tuple[np.ndarray, np.ndarray, np.ndarray], **look: Any) -> None:
  steps, mean, deviation = points
  alone = len(np.unique(steps)) == 1  # of which a line shows nothing
  axes.plot(steps, mean, marker="o" if alone else None, markersize=4, **look)
  if deviation.any():
    axes.fill_between(
      steps, mean - deviation, mean + deviation, color=look["color"], alpha=0.18, linewidth=0
    )


def _values(axes: Any) -> list[np.ndarray]:
  """Returns the values of each line of a panel, [N] each."""
  return [np.asarray(line.get_ydata()) for line in axes.get_lines()]


def _natural(key: str) -> list[Any]:
  """Returns a key that sorts head 10 after head 9."""
  return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", key)]

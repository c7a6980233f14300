"""Pieces of figures of reports."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..record.drawing import LEGEND, legend, line_colours, shown
from .statistics import PAIR, Estimates

BESIDE = 28  # characters of a name that there is room for beside bars


def figure(width: float, height: float, columns: int = 1) -> tuple[Any, list[Any]]:
  """Makes a figure of a row of panels, `width` x `height` inches; returns it and the panels."""
  from matplotlib.figure import Figure  # without pyplot, as in core.record.plotting

  page = Figure(figsize=(width, height), layout="constrained")
  axes = list(page.subplots(1, columns, squeeze=False)[0])
  for one in axes:
    one.spines[["top", "right"]].set_visible(False)
    one.grid(alpha=0.25, linewidth=0.6)
  return page, axes


def bars(axes: Any, names: Sequence[str], points: Sequence[float], intervals: Any) -> None:
  """Draws a row an agent, the first on top: its interval as a bar, the estimate as a line in it."""
  axes.use_sticky_edges = False  # room beside the bars
  colours = line_colours(len(names))
  for i, (point, (low, high)) in enumerate(zip(points, intervals, strict=True)):
    axes.barh(i, high - low, left=low, height=0.6, color=colours[i], alpha=0.6)
    axes.vlines(point, i - 0.3, i + 0.3, color="black", linewidth=1.5)
  labels = [PAIR.join(shown(part, BESIDE) for part in name.split(PAIR)) for name in names]
  axes.set_yticks(range(len(names)), labels, parse_math=False)
  axes.set_ylim(len(names) - 0.5, -0.5)


def bands(axes: Any, x: np.ndarray, estimates: Estimates) -> None:
  """Draws a line an agent, in the band of its interval; x is [N], as are the estimates."""
  colours = line_colours(len(estimates.point))
  for colour, (agent, point) in zip(colours, estimates.point.items(), strict=True):
    axes.plot(x, point, color=colour, linewidth=1.8)
    axes.fill_between(x, *estimates.interval[agent], color=colour, alpha=0.18, linewidth=0)
  names = [shown(agent) for agent in estimates.point]
  columns = max(1, min(4, LEGEND // (6 + max(map(len, names)))))
  # The figure grows by what the legend takes beyond one row, so that the panel does not shrink.
  width, height = axes.figure.get_size_inches()
  axes.figure.set_size_inches(width, height + 0.2 * (-(-len(names) // columns) - 1))
  look = {"loc": "outside upper center", "ncols": columns, "fontsize": 9}
  legend(axes.figure, axes.get_lines(), names, **look)

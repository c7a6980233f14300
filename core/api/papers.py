"""Figures of papers: grids of experiments, and what is drawn and said of them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np


class Cell(NamedTuple):
  """One training run of a grid; it may hold many independent runs."""

  name: str  # of its folder, the same in every figure that has it
  columns: Mapping[str, Any]  # what it is, in the figure's table
  experiment: str
  bindings: tuple[str, ...]


class Result(NamedTuple):
  """The logs of one cell: of R runs under `@runs()`, else of one."""

  cell: Cell
  settings: list[dict[str, str]]  # [R] rows of runs.csv; [{}] for a single run
  returns: np.ndarray  # [R, E] raw return of each episode; NaN after the last one of a run, but
  # the least of all after a run diverged
  lengths: np.ndarray  # [R, E] its transitions; 0 where there is none
  metrics: Mapping[str, np.ndarray]  # [N] each: columns of metrics.jsonl; NaN where a row has none


class Cost(NamedTuple):
  """The cost of a figure, for `selftune reproduce` to list."""

  runs: int  # independent ones, of all cells
  env_steps: int  # of a run, at most
  time: str  # measured, or the paper's own; says so, and on what
  machine: str  # 'CPU' or 'GPU', the least that makes sense


def episodes(results: Sequence[Result]) -> Iterator[dict[str, Any]]:
  """Gives the rows of a table: one an episode, those that a diverged run missed too.

  Args:
    results: of the cells; their returns are [R, E].
  """
  for cell, settings, returns, lengths, _ in results:
    for run, row in enumerate(settings):
      shown = {name: row[name] for name in row if "." in name or name == "seed"}
      for e in np.flatnonzero(~np.isnan(returns[run])):
        scored = {"episode": e, "return": returns[run, e], "length": lengths[run, e]}
        yield {**cell.columns, **shown, "run": run, **scored}


class Figure(NamedTuple):
  """A figure of a paper: what to train for it, and what to make of the logs."""

  about: str  # what it shows, in one line
  cost: Cost
  cells: tuple[Cell, ...]
  quick: tuple[Cell, ...]  # a small form of the grid, a matter of minutes on a CPU
  draw: Callable[[list[Result]], Any]  # -> matplotlib Figure
  claims: Callable[[list[Result]], list[str]]  # what the paper says, and what the table says
  table: Callable[[list[Result]], Iterable[Mapping[str, Any]]] = episodes  # rows of its CSV


class Paper(Protocol):
  """Kind `paper`: the figures that `selftune reproduce` can make of a paper."""

  def figures(self) -> Mapping[str, Figure]:
    """Returns the figures by name, such as 'metatrace/fig1'."""
    ...


def bound(cells: Iterable[Cell], bindings: Iterable[str]) -> tuple[Cell, ...]:
  """Returns the cells with further bindings, which count more than their own."""
  return tuple(cell._replace(bindings=(*cell.bindings, *bindings)) for cell in cells)


def smooth(returns: np.ndarray, window: int) -> np.ndarray:
  """Smooths returns over episodes, as the curves of papers are.

  Args:
    returns: [..., E], finite.
    window: how many episodes a mean is over, fewer at the start.

  Returns:
    [..., E]: at every episode the mean of it and those before.
  """
  # A difference of cumulative sums: cheap for any window, and exact enough for pictures.
  total = np.cumsum(returns, axis=-1)
  total[..., window:] -= total[..., :-window].copy()
  return total / np.minimum(np.arange(1, returns.shape[-1] + 1), window)


def final(returns: np.ndarray, episodes: int = 100) -> float:
  """Returns the mean of the last episodes of all runs' returns, [R, E].

  NaN where a run has none there: runs of different lengths do not compare.
  """
  return float(returns[:, -episodes:].mean())

"""What a paper's figures are made of: grids of experiments, and what is drawn and said of them."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np


class Cell(NamedTuple):
  """One training run of a grid; it may hold many independent runs."""

  name: str  # of its folder, the same in every figure that has it
  columns: Mapping[str, Any]  # what it is, in the figure's table
  experiment: str
  bindings: tuple[str, ...]


class Result(NamedTuple):
  """What a cell's logs say of its runs, R."""

  cell: Cell
  settings: list[dict[str, str]]  # [R] rows of runs.csv
  returns: np.ndarray  # [R, E] raw return of each episode; NaN after the last one of a run, but
  # the least of all after a run diverged
  lengths: np.ndarray  # [R, E] its transitions; 0 where there is none
  metrics: list[dict[str, Any]]  # rows of metrics.jsonl


class Figure(NamedTuple):
  """A figure of a paper."""

  cells: tuple[Cell, ...]
  quick: tuple[str, ...]  # further bindings that make it a matter of minutes
  draw: Callable[[list[Result]], Any]  # -> matplotlib Figure
  claims: Callable[[list[Result]], list[str]]  # what the paper says, and what the table says


class Paper(Protocol):
  """Kind `paper`: what `selftune reproduce` can make of it."""

  def figures(self) -> Mapping[str, Figure]: ...  # by name, such as 'metatrace/fig1'


def smooth(returns: np.ndarray, window: int) -> np.ndarray:
  """The mean of the last `window` episodes at every episode, [..., E]; of fewer at the start."""
  total = np.cumsum(returns, axis=-1)
  total[..., window:] -= total[..., :-window].copy()
  return total / np.minimum(np.arange(1, returns.shape[-1] + 1), window)


def final(returns: np.ndarray, episodes: int = 100) -> float:
  """Mean return of the last episodes of all runs."""
  return float(returns[:, -episodes:].mean())

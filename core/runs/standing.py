"""What a population is between two exchanges; checkpoints hold it beside the states of the runs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..api.contracts import Interval
from ..record.lineage import Settings


class Standing(NamedTuple):
  """How a population of R runs stands, on the host."""

  settings: Settings
  due: int  # env steps of a run from which on the next exchange is made
  began: np.ndarray  # [R] the score that each run began with, see Interval
  totals: np.ndarray  # [R] sum of the returns of episodes since the last exchange
  counts: np.ndarray  # [R] int, how many episodes these are
  history: tuple[Interval, ...] = ()  # as much of it as explore wants, oldest first
  exchanges: int = 0  # made so far

  @property
  def scores(self) -> np.ndarray:
    """Mean returns since the last exchange, [R]; NaN where no episode ended."""
    # Not divided by 0: NumPy would warn of what is made NaN in the next line.
    mean = self.totals / np.maximum(self.counts, 1)
    return np.where(self.counts > 0, mean, np.nan)

  def best(self, diverged: np.ndarray) -> int:
    """The run with the best score, or that without one began with the best; 0 if none has any.

    Args:
      diverged: runs that it is not to be, [R] bool.
    """
    known = np.where(diverged, np.nan, np.where(self.counts > 0, self.scores, self.began))
    return int(np.nanargmax(known)) if np.isfinite(known).any() else 0

  def counted(self, found: Sequence[Sequence[tuple[float, int]]]) -> "Standing":
    """The standing after more episodes: return and length of each, by run."""
    totals = [math.fsum(episode_return for episode_return, _ in of_run) for of_run in found]
    return self._replace(
      totals=self.totals + np.array(totals), counts=self.counts + [len(x) for x in found]
    )

  def to_json(self) -> dict[str, Any]:
    """Returns what a checkpoint's document holds."""
    # Python's JSON holds a float to the last bit, so that what is read back is what was.
    return {
      "settings": {name: list(values) for name, values in self.settings.items()},
      "due": self.due,
      "exchanges": self.exchanges,
      "began": _listed(self.began),
      "totals": _listed(self.totals),
      "counts": self.counts.tolist(),
      "history": [
        {
          "settings": {name: _listed(values) for name, values in interval.settings.items()},
          "began": _listed(interval.began),
          "scores": _listed(interval.scores),
        }
        for interval in self.history
      ],
    }

  @classmethod
  def from_json(cls, saved: Mapping[str, Any]) -> "Standing":
    """Returns the standing that `to_json` has made a document of."""
    return cls(
      settings=saved["settings"],
      due=saved["due"],
      began=_column(saved["began"]),
      totals=_column(saved["totals"]),
      counts=np.array(saved["counts"], int),
      history=tuple(
        Interval(columns(of["settings"]), _column(of["began"]), _column(of["scores"]))
        for of in saved["history"]
      ),
      exchanges=saved["exchanges"],
    )


def anew(settings: Settings, due: int, began: np.ndarray) -> Standing:
  """The standing at the start of an interval; `began` is [R], see Interval."""
  runs = len(began)
  return Standing(settings, due, began, totals=np.zeros(runs), counts=np.zeros(runs, int))


def columns(settings: Mapping[str, Sequence[Any]]) -> dict[str, np.ndarray]:
  """Settings as arrays, [R] each."""
  return {name: _column(values) for name, values in settings.items()}


def _listed(x: np.ndarray) -> list[float | str]:
  """Returns numbers [R] as JSON has them; those not finite, which JSON lacks, as text."""
  return [value if math.isfinite(value) else str(value) for value in x.tolist()]


def _column(values: Sequence[float | str]) -> np.ndarray:
  # `float` reads the text that `_listed` writes for NaN and infinity, too.
  return np.array([float(value) for value in values], float)

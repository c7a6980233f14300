"""The contracts of populations: who is replaced by whom, and what its copy tries.

Both are called by the host, with NumPy arrays of R runs and a generator of its own for every
exchange, from which alone they may draw: a resumed population then draws what it would have.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np

Scale = Literal["linear", "log", "odds"]


class Number(NamedTuple):
  """A number that a population varies: which values it may have, and how it is best counted.

  `log` is of numbers that are at least 0, `odds` of those from 0 to 1: their coordinates are
  log x and log(x / (1 - x)), so that equal steps are equal factors of x, or of x near 0 and of
  1 - x near 1. Where an end lies at infinity there, a number that is given it has `linear`.
  """

  low: float
  high: float
  scale: Scale

  def coordinate(self, x: np.ndarray | float) -> np.ndarray:
    """Returns the coordinates [...] of values [...]; infinite at an end of the scale."""
    x = np.asarray(x, float)
    with np.errstate(divide="ignore"):
      if self.scale == "log":
        return np.log(x)
      return np.log(x) - np.log1p(-x) if self.scale == "odds" else x

  def value(self, coordinate: np.ndarray | float) -> np.ndarray:
    """Returns the values [...] of coordinates [...]."""
    u = np.asarray(coordinate, float)
    if self.scale == "log":
      return np.exp(u)
    return np.exp(-np.logaddexp(0, -u)) if self.scale == "odds" else u

  @property
  def is_bounded(self) -> bool:
    """Whether both ends have finite coordinates."""
    return all(math.isfinite(u) for u in self.coordinate(np.array([self.low, self.high])))


class Interval(NamedTuple):
  """What R runs did between two exchanges."""

  settings: Mapping[str, np.ndarray]  # 'component.field' -> [R] values that they had
  began: np.ndarray  # [R] the score that each began with, its parent's; NaN where there was none
  scores: np.ndarray  # [R] mean return; NaN of a run that is left out, -inf of one that diverged


class Exploit(Protocol):
  """Kind `exploit`: decides which runs of a population go on as copies of which others."""

  def __call__(self, rng: np.random.Generator, scores: np.ndarray) -> np.ndarray:
    """Chooses parents.

    Args:
      rng: of this exchange.
      scores: [R]; NaN of a run that takes no part (it has finished no episode, or has come to its
        end), -inf of one that diverged.

    Returns:
      The number of the run that each goes on as a copy of, int [R]; its own: it stays. A parent has
      a finite score, and who takes no part stays.
    """
    ...


class ExploreInputs(NamedTuple):
  """Inputs of an exploration."""

  parents: np.ndarray  # [R] int, as an Exploit gave them
  numbers: Mapping[str, Number]  # what is varied, by 'component.field'
  first: Mapping[str, np.ndarray]  # [R] values that runs began training with
  history: Sequence[Interval]  # the last ones, oldest first; that which ends now is the last


class Explore(Protocol):
  """Kind `explore`: chooses the settings of runs that are copies of others from now on."""

  @property
  def memory(self) -> int:
    """How many intervals of the history it wants, at least 1; checkpoints hold so many."""
    ...

  def check(self, numbers: Mapping[str, Number]) -> None:
    """Checks what is to be varied, before training.

    Raises:
      ValueError: it cannot vary such numbers.
    """
    ...

  def __call__(self, rng: np.random.Generator, x: ExploreInputs) -> Mapping[str, np.ndarray]:
    """Chooses settings.

    Args:
      rng: of this exchange.
      x: the parents, and what is known.

    Returns:
      By name, [R] each: the settings from now on. Only those of copies count; core moves them into
      the number's ends.
    """
    ...

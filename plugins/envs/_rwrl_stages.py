"""Delays, noise and faults of the Real-World RL suite, on arrays of all environments of a block.

A stage is a function `(x [K, n], draws) -> [K, n]` with a memory that outlives episodes. None
writes to what it was given or has returned. Dulac-Arnold et al. 2021, sections 2.1 to 2.5.
"""

import collections
from collections.abc import Sequence

import numpy as np

from ._rwrl_settings import Fault


class Draws:
  """The generators of K environments; each draws for its own row only.

  What a row draws equals what a loop over NumPy's `normal` and `binomial` would: a RandomState's
  stream is frozen for good, and there N(0, s) is s times a standard normal.
  """

  def __init__(self, generators: Sequence[np.random.RandomState]):
    self._generators = generators

  def normal(self, size: int) -> np.ndarray:
    """Draws N(0, 1), [K, size]."""
    return np.array([generator.standard_normal(size) for generator in self._generators])

  def bernoulli(self, probability: float, size: int) -> np.ndarray:
    """Draws bools [K, size], equal to `binomial(1, probability)` but eight times faster."""
    uniform = np.array([generator.random_sample(size) for generator in self._generators])
    return _hits(uniform, probability)

  def bernoulli_of(self, rows: np.ndarray, probability: float) -> np.ndarray:
    """Draws bools [K] with the generators where `rows`, [K] bool; the others say False."""
    uniform = np.ones(len(rows))
    for row in map(int, np.flatnonzero(rows)):
      uniform[row] = self._generators[row].random_sample()
    return uniform < probability


def _hits(uniform: np.ndarray, probability: float) -> np.ndarray:
  # NumPy inverts the cumulative distribution of the rarer outcome.
  return uniform > 1 - probability if probability <= 0.5 else uniform <= probability


class Delay:
  """A delay: the n-th output is the (n - steps)-th input; before that, the first input."""

  def __init__(self, steps: int):
    self._queue = collections.deque(maxlen=steps + 1)

  def __call__(self, x: np.ndarray, draws: Draws) -> np.ndarray:
    """Takes the newest input [K, n]; returns that of `steps` calls ago, [K, n]."""
    del draws
    # The first input fills the queue, for there is nothing older to put out.
    self._queue.extend([x] if self._queue else [x] * (self._queue.maxlen or 1))
    return self._queue[0]


class Noise:
  """Noise: adds N(0, std^2), then clips to the bounds, [n] each, if there are any."""

  def __init__(self, std: float, bounds: tuple[np.ndarray, np.ndarray] | None = None):
    self._std, self._bounds = std, bounds

  def __call__(self, x: np.ndarray, draws: Draws) -> np.ndarray:
    """Returns x [K, n] with noise, [K, n]."""
    x = x + self._std * draws.normal(x.shape[1])
    return x if self._bounds is None else np.clip(x, *self._bounds)


class _Spells:
  """Spells of faults: an entry that works is hit with a probability, for some steps."""

  def __init__(self, fault: Fault):
    self._probability, self._steps = fault
    self._left: np.ndarray | None = None  # [K, n] steps that a fault still lasts

  def __call__(self, x: np.ndarray, draws: Draws) -> np.ndarray:
    """Says which entries of x [K, n] are faulty in this step, bool [K, n]."""
    left = np.zeros(x.shape, int) if self._left is None else self._left
    # All entries draw, faulty ones in vain: the stream of draws is then the suite's.
    left[draws.bernoulli(self._probability, x.shape[1]) & (left == 0)] = self._steps
    faulty = left > 0
    self._left = left - faulty
    return faulty


class Dropped:
  """A stage in which faulty entries read 0."""

  def __init__(self, fault: Fault):
    self._faulty = _Spells(fault)

  def __call__(self, x: np.ndarray, draws: Draws) -> np.ndarray:
    """Returns x [K, n] with 0 where it is faulty."""
    return np.where(self._faulty(x, draws), 0.0, x)


class Stuck:
  """A stage in which faulty entries read what it put out for them last time."""

  def __init__(self, fault: Fault):
    self._faulty = _Spells(fault)
    self._last: np.ndarray | None = None

  def __call__(self, x: np.ndarray, draws: Draws) -> np.ndarray:
    """Returns x [K, n] with what came out last time where it is faulty."""
    last = x if self._last is None else self._last
    self._last = np.where(self._faulty(x, draws), last, x)
    return self._last


class Repetition:
  """A stage that at times executes an action for some steps instead of those that follow."""

  def __init__(self, repetition: Fault):
    self._probability, self._steps = repetition
    self._left: np.ndarray | None = None  # [K] steps for which the held action goes on
    self._held = np.empty(0)

  def __call__(self, x: np.ndarray, draws: Draws) -> np.ndarray:
    """Returns the actions to execute, [K, A], of those that were chosen, [K, A]."""
    if self._left is None:
      self._left, self._held = np.zeros(len(x), int), x
    free = self._left == 0
    # Unlike the faults of entries, only a free environment draws, as in the suite.
    begins = draws.bernoulli_of(free, self._probability)
    self._held = np.where(free[:, None], x, self._held)
    # This step is the first of those that the action is held for.
    self._left = np.where(begins, self._steps - 1, np.maximum(self._left - 1, 0))
    return self._held


def dummies(x: np.ndarray, number: int, draws: Draws) -> np.ndarray:
  """Appends `number` entries of N(0, 1) to x [K, n]; [K, n + number]."""
  return np.concatenate((x, draws.normal(number)), axis=1) if number else x

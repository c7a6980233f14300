"""Population-based bandits: a copy tries what a Gaussian process makes of all runs so far."""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from ...core.api import Count, ExploreInputs, NotNegative, Number, Positive, register
from ._gaussian_process import Data, Kernel, fitted, mean_and_variance

STEPS = (0.1, 0.03, 0.01)  # of searches around the best candidate so far, in units of the bounds
CLIP = 2.0  # standard deviations that a gain counts at most


@register("explore", "pb2")
@dataclasses.dataclass(frozen=True)
class PB2:
  """Settings of the greatest upper confidence bound of a run's gain (Parker-Holder et al. 2020).

  A gain is the change of a run's score over an interval. Its model, as a function f_i of the
  settings in interval i, is a Gaussian process that drifts, with the covariance of f_i(x) and
  f_j(x') k(x, x') (1 - epsilon)^(|i - j| / 2). The copies choose one after another

      x = argmax  mu(x) + sqrt(beta) sigma(x),  beta = c_1 log(max(c_2 N, e))

  of N gains; mu is of these alone, and sigma also knows the settings that other runs go on with, so
  that copies do not all choose the same; c_1 and c_2 are those of the authors' program, the least
  logarithm is ours. Settings are counted on the scale of their numbers between
  `population.bounds`, which each of them needs. A run that diverged has the least gain of all. The
  kernel is the likeliest one of a grid.

  Attributes:
    memory: how many of the last intervals gains are taken from.
    gains: how many of the newest gains the process knows; its time grows with their cube.
    candidates: settings that are looked at for each copy, drawn evenly.
    c_1: weight of what is not known, in beta.
    c_2: how fast beta grows with the number of gains.
  """

  memory: Count = 10
  gains: Count = 200
  candidates: Count = 1000
  c_1: NotNegative = 0.2
  c_2: Positive = 0.4

  def check(self, numbers: Mapping[str, Number]) -> None:
    """Checks that every number has bounds.

    Raises:
      ValueError: one has not.
    """
    for name, number in numbers.items():
      if not number.is_bounded:
        raise ValueError(f"explore @pb2() takes bounds: population.bounds['{name}'] = (..., ...)")

  def __call__(self, rng: np.random.Generator, x: ExploreInputs) -> Mapping[str, np.ndarray]:
    """Chooses settings, by name [R]; those of runs that are no copies are their own."""
    now = len(x.history)
    data = known(x, self.gains)
    kernel = fitted(data)
    copies = x.parents != np.arange(len(x.parents))
    # The rows of copies are replaced one by one below; all others are kept.
    points = to_cube(x.numbers, x.history[-1].settings)  # [R, D]
    busy = points[~copies]
    beta = self.c_1 * math.log(max(self.c_2 * len(data.y), math.e))
    for run in np.flatnonzero(copies):
      points[run] = _argmax(rng, kernel, data, busy, now, math.sqrt(beta), self.candidates)
      # The next copy is to know what this one will try.
      busy = np.concatenate([busy, points[run][None]])
    return from_cube(x.numbers, points)


def known(x: ExploreInputs, most: int) -> Data:
  """Returns the newest gains, standardised: N of them, at points [N, D] of intervals [N]."""
  points = [to_cube(x.numbers, interval.settings) for interval in x.history]
  gains = []
  for interval in x.history:
    # The gain of a run that diverged is -inf; without a score before or after it is NaN.
    gains.append(np.where(np.isneginf(interval.scores), -np.inf, interval.scores - interval.began))
  numbers = np.repeat(np.arange(len(points)), [len(of) for of in points]).astype(float)
  at, y = np.concatenate(points), np.concatenate(gains)
  finite = y[np.isfinite(y)]
  if not len(finite):
    return Data(np.zeros((0, at.shape[1])), np.zeros(0), np.zeros(0))
  # -inf has no mean: a run that diverged counts as the worst that was finite.
  y = np.where(np.isneginf(y), finite.min(), y)
  # Intervals lie oldest first, so the last ones are the newest.
  kept = np.flatnonzero(~np.isnan(y))[-most:]
  y = y[kept] - y[kept].mean()
  deviation = y.std()
  # Unit variance is what the kernel assumes of y; one outlier is not to flatten the rest.
  y = np.clip(y / (deviation if deviation > 0 else 1), -CLIP, CLIP)
  return Data(at[kept], numbers[kept], y)


def to_cube(numbers: Mapping[str, Number], settings: Mapping[str, np.ndarray]) -> np.ndarray:
  """Maps settings, by name [R], to points in a cube of side 1, [R, D]."""
  columns = []
  for name, number in numbers.items():
    low, high = number.coordinate(np.array([number.low, number.high]))
    columns.append((number.coordinate(settings[name]) - low) / (high - low))
  # Rounding may put a value at a bound just beyond it.
  return np.clip(np.stack(columns, axis=1), 0, 1)


def from_cube(numbers: Mapping[str, Number], points: np.ndarray) -> dict[str, np.ndarray]:
  """Maps points in a cube of side 1, [R, D], to settings, by name [R]."""
  settings = {}
  for (name, number), column in zip(numbers.items(), points.T, strict=True):
    low, high = number.coordinate(np.array([number.low, number.high]))
    settings[name] = number.value(low + column * (high - low))
  return settings


def _argmax(
  rng: np.random.Generator,
  kernel: Kernel,
  data: Data,
  busy: np.ndarray,
  now: int,
  kappa: float,
  candidates: int,
) -> np.ndarray:
  """Finds the point [D] of the greatest mu + kappa sigma: of candidates, then around the best."""
  # Busy points are of the interval that begins now, of which no gain is known yet.
  intervals = np.concatenate([data.i, np.full(len(busy), float(now))])
  # What is observed at points that are busy does not matter to sigma.
  all_of_them = Data(np.concatenate([data.x, busy]), intervals, np.zeros(len(intervals)))

  def bound(points: np.ndarray) -> np.ndarray:
    i = np.full(len(points), float(now))
    mean, _ = mean_and_variance(kernel, data, points, i)
    return mean + kappa * np.sqrt(mean_and_variance(kernel, all_of_them, points, i)[1])

  points = rng.random((candidates, data.x.shape[1]))
  best = points[np.argmax(bound(points))]
  for step in STEPS:
    near = np.clip(best + step * rng.normal(size=(candidates // 10 + 1, len(best))), 0, 1)
    # The best so far is among them, so no search ends lower than it began.
    points = np.concatenate([best[None], near])
    best = points[np.argmax(bound(points))]
  return best

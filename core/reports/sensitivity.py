"""What tuning an agent's settings is worth: sensitivity, effective dimension, random search.

Adkins, Bowling and White 2024, "A method for evaluating hyperparameter sensitivity in reinforcement
learning". An agent has H settings h, each a value of each of its D hyperparameters, and a score p
in each of E environments e. With p5(e) and p95(e), percentiles over the settings of all agents,

  Gamma(e, h) = (p(e, h) - p5(e)) / (p95(e) - p5(e))
  tuned       = mean_e max_h Gamma(e, h)        each environment has a setting of its own
  common      = max_h mean_e Gamma(e, h)        one setting for all; h* is where that is
  sensitivity = tuned - common
  effective dimension = the least k such that tuning the best k hyperparameters in each
                environment, the others at those of h*, reaches 95 % of tuned

All functions take leading axes [...], of bootstrap resamples. NaN is a score that is missing: no
environment is tuned to such a setting, and it is none that is common to all.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

LOW, HIGH = 5, 95  # percentiles that scores are normalised by
ENOUGH = 0.95  # of the tuned score, at the effective dimension
MOST_DIMENSIONS = 10  # whose 2^D subsets are looked at
ROUNDING = 1e-9  # of scores: percentiles that differ by less are equal
CHUNK = 2**22  # numbers of a bootstrap that are held at a time, about


class Sensitivity(NamedTuple):
  """What tuning is worth; NaN where an environment, or all settings, lack a score."""

  tuned: np.ndarray  # [...]
  common: np.ndarray  # [...]
  best: np.ndarray  # [..., E], the setting that each environment has of its own
  star: np.ndarray  # [...], h*, the setting for all

  @property
  def value(self) -> np.ndarray:
    """The sensitivity, [...]; at least 0."""
    return self.tuned - self.common


def percentiles(scores: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
  """Computes p5 and p95 of each environment, [..., E], over the settings of all agents.

  Args:
    scores: of each agent, [..., E, H of its own]. Where NaN is must not differ along [...].

  Returns:
    Both are NaN of an environment without any score.
  """
  everyone = np.concatenate(scores, axis=-1)
  low, high = np.full((2, *everyone.shape[:-1]), np.nan)
  for e in range(everyone.shape[-2]):
    of_env = everyone[..., e, :]
    there = ~np.isnan(of_env.reshape(-1, of_env.shape[-1])[0])
    if there.any():
      low[..., e], high[..., e] = np.percentile(of_env[..., there], (LOW, HIGH), axis=-1)
  return low, high


def normalised(scores: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
  """Computes Gamma of scores [..., E, H]; where p5 equals p95 it is the distance to these.

  Args:
    scores: of an agent, [..., E, H].
    low: p5, [..., E].
    high: p95, [..., E].
  """
  span = high - low
  # Means of equal scores may differ by rounding, which else would be all the difference there is.
  equal = span <= ROUNDING * np.maximum(abs(low), abs(high))
  scale = np.where(equal, 1.0, span)
  return (scores - low[..., None]) / scale[..., None]


def sensitivity(gamma: np.ndarray) -> Sensitivity:
  """Computes what a setting for each environment gains over one setting for all.

  Args:
    gamma: normalised scores of an agent, [..., E, H].
  """
  best, tuned = _greatest(gamma)
  star, common = _greatest(gamma.mean(-2))
  return Sensitivity(tuned.mean(-1), common, best, star)


def tuned_of(gamma: np.ndarray, values: np.ndarray, star: np.ndarray) -> np.ndarray:
  """Computes the best mean over environments with k numbers tuned, k = 0..D: [..., D + 1].

  Args:
    gamma: normalised scores of an agent, [..., E, H].
    values: which value each setting has of each hyperparameter, [H, D] integers.
    star: h*, [...].
  """
  dimensions = values.shape[1]
  as_star = values == values[star][..., None, :]  # [..., H, D]
  found = np.full((*star.shape, dimensions + 1), -np.inf)
  for k in range(dimensions + 1):
    for tuned in itertools.combinations(range(dimensions), k):
      # Settings that agree with h* in all that is not tuned; the others are left out, as NaN.
      fixed = np.delete(as_star, tuned, axis=-1).all(-1)  # [..., H]
      _, greatest = _greatest(np.where(fixed[..., None, :], gamma, np.nan))
      # fmax: a choice that leaves an environment without a score is NaN, and none to take.
      found[..., k] = np.fmax(found[..., k], greatest.mean(-1))
  return found


def effective_dimension(tuned: np.ndarray) -> np.ndarray:
  """Finds the least k that reaches 95 % of what tuning all reaches, [...].

  Args:
    tuned: of `tuned_of`, [..., D + 1].
  """
  all_of_it = tuned[..., -1:]
  # Below 0, 95 % of a score is more than that score.
  return np.argmax(tuned >= np.minimum(ENOUGH * all_of_it, all_of_it), axis=-1)


def expected_best(scores: np.ndarray) -> np.ndarray:
  """Computes the expected best of N settings drawn without replacement, N = 1..H: [..., H].

  By order statistics: the i-th least of n scores is the best of N draws with probability
  C(i - 1, N - 1) / C(n, N). Settings without a score are not drawn.

  Args:
    scores: [..., H]. Where NaN is must not differ along [...].
  """
  there = ~np.isnan(scores.reshape(-1, scores.shape[-1])[0])
  n = int(there.sum())
  if n == 0:
    return np.full(scores.shape, np.nan)
  found = np.sort(scores[..., there], axis=-1) @ _best_of(n).T
  # Beyond n draws there is nothing left to draw: the best of all stays the best.
  rest = np.repeat(found[..., -1:], scores.shape[-1] - n, axis=-1)
  return np.concatenate([found, rest], axis=-1)


def _best_of(n: int) -> np.ndarray:
  """Computes the probability that the i-th least of n is the best of N draws, [N - 1, i - 1]."""
  i = np.arange(1, n + 1)
  rows = [np.full(n, 1 / n)]
  for draws in range(1, n):
    # From C(i - 1, N - 1) / C(n, N) to N + 1; no factorial is ever computed.
    rows.append(rows[-1] * np.maximum(i - draws, 0) / draws * (draws + 1) / (n - draws))
  return np.array(rows)


def tries_to_match(best: np.ndarray, score: float) -> int | None:
  """Finds the least N whose `expected_best`, of [H], reaches a score; None if none does."""
  # By a margin: `best` is a sum of products, which rounds where the score does not.
  reached = np.flatnonzero(best >= score - 1e-9 * abs(score))
  return int(reached[0]) + 1 if reached.size else None


def resampled(
  runs: Mapping[str, np.ndarray], resamples: int, seed: int = 0
) -> Iterator[dict[str, np.ndarray]]:
  """Bootstraps over seeds: mean scores of every agent, [b, E, H], b of the resamples at a time.

  The runs of every setting in every environment are drawn anew from themselves, as many.

  Args:
    runs: scores of each agent, [E, H, S]; NaN where there is no such run.
    resamples: how many in all.
    seed: of what is drawn.
  """
  random = np.random.default_rng(seed)
  at_a_time = max(1, CHUNK // max(1, sum(x.size for x in runs.values())))
  # Those that are there come first: a draw is an index below their number.
  ordered = {agent: np.sort(x, axis=-1) for agent, x in runs.items()}
  for begin in range(0, resamples, at_a_time):
    b = min(at_a_time, resamples - begin)
    yield {agent: _means_of_draws(x, b, random) for agent, x in ordered.items()}


def _means_of_draws(runs: np.ndarray, b: int, random: np.random.Generator) -> np.ndarray:
  counts = (~np.isnan(runs)).sum(-1, keepdims=True)  # [E, H, 1]
  drawn = (random.random((b, *runs.shape)) * counts).astype(int)
  values = np.take_along_axis(np.broadcast_to(runs, drawn.shape), drawn, axis=-1)
  # As many draws count as there are runs; the others only fill the array.
  counted = np.arange(runs.shape[-1]) < counts
  total = np.where(counted, values, 0).sum(-1)
  return total / np.where(counts[..., 0] == 0, np.nan, counts[..., 0])


def means(runs: np.ndarray) -> np.ndarray:
  """Computes mean scores over seeds, [E, H], of runs [E, H, S]; NaN where there is no run."""
  counts = (~np.isnan(runs)).sum(-1)
  return np.nansum(runs, axis=-1) / np.where(counts == 0, np.nan, counts)


def _greatest(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Finds where the greatest of [..., N] is, and its value, [...] each; NaN only where all are."""
  filled = np.where(np.isnan(x), -np.inf, x)
  where = np.argmax(filled, axis=-1)
  value = np.take_along_axis(filled, where[..., None], axis=-1)[..., 0]
  return where, np.where(value == -np.inf, np.nan, value)

"""Statistics of agents over several runs, with intervals: rliable's.

Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice".
Intervals are of 95 %, by a bootstrap over runs, stratified by task.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ..api.errors import UserError

THRESHOLDS = 101  # of performance profiles
PAIR = " > "  # between the names of two agents


class Estimates(NamedTuple):
  """One statistic, or a row of N, of every agent (or pair of agents)."""

  point: dict[str, np.ndarray]  # [N]
  interval: dict[str, np.ndarray]  # [2, N]: from, to


class Statistics(NamedTuple):
  """Statistics of scores; an optimality gap is measured from a score of 1."""

  aggregates: Estimates  # in order of AGGREGATES
  thresholds: np.ndarray  # [THRESHOLDS]
  profiles: Estimates  # fraction of runs whose score is above each threshold
  improvement: Estimates  # 'a > b': probability that a run of a scores higher, N = 1
  efficiency: Estimates  # interquartile mean at each point of the learning curves


AGGREGATES = ("median", "IQM", "mean", "optimality gap")


def statistics(
  scores: Mapping[str, np.ndarray], curves: Mapping[str, np.ndarray], resamples: int, seed: int = 0
) -> Statistics:
  """Computes all statistics; the same for equal arguments.

  Args:
    scores: of each agent, [runs, tasks].
    curves: of each agent, [runs, tasks, N].
    resamples: of the bootstrap.
    seed: of the bootstrap. Seeds NumPy's global generator, which is what rliable draws from.

  Raises:
    UserError: rliable is not installed.
  """
  _, metrics = rliable()
  from scipy.stats import trim_mean  # rliable needs it, too

  np.random.seed(seed)
  functions = (
    metrics.aggregate_median,
    metrics.aggregate_iqm,
    metrics.aggregate_mean,
    metrics.aggregate_optimality_gap,
  )
  estimates = lambda data, function: _estimates(data, function, resamples)
  names = list(scores)
  # Each pair once: ties count half, so P(b > a) is 1 - P(a > b).
  pairs = {
    f"{a}{PAIR}{b}": (scores[a], scores[b]) for i, a in enumerate(names) for b in names[i + 1 :]
  }
  thresholds, of_profiles = _profiles(scores, resamples)
  return Statistics(
    estimates(scores, lambda x: np.array([f(x) for f in functions])),
    thresholds,
    of_profiles,
    estimates(pairs, lambda x, y: np.array([metrics.probability_of_improvement(x, y)])),
    # aggregate_iqm at each point; all points in one call are ten times faster.
    estimates(curves, lambda x: trim_mean(x.reshape(-1, x.shape[-1]), 0.25, axis=0)),
  )


def profiles(
  scores: Mapping[str, np.ndarray], resamples: int, seed: int = 0
) -> tuple[np.ndarray, Estimates]:
  """Computes performance profiles alone; the same for equal arguments.

  Args:
    scores: of each agent, [runs, tasks]; agents may differ in their number of tasks.
    resamples: of the bootstrap.
    seed: of NumPy's global generator, see `statistics`.

  Returns:
    The thresholds, [THRESHOLDS], and what fraction of an agent's runs is above each; both are empty
    where no agent has a score.

  Raises:
    UserError: rliable is not installed.
  """
  np.random.seed(seed)
  return _profiles(scores, resamples)


def interquartile_means(
  scores: Mapping[Any, np.ndarray], resamples: int, seed: int = 0
) -> dict[Any, np.ndarray]:
  """Computes the interquartile mean of each task, [3, tasks]: its value, from, to.

  Arguments and errors are those of `profiles`.
  """
  rliable()
  from scipy.stats import trim_mean

  np.random.seed(seed)
  # The interquartile mean leaves out a quarter of the runs at either end.
  point, interval = _estimates(scores, lambda x: trim_mean(x, 0.25, axis=0), resamples)
  return {name: np.stack([x, *interval[name]]) for name, x in point.items()}


def _profiles(scores: Mapping[str, np.ndarray], resamples: int) -> tuple[np.ndarray, Estimates]:
  if not scores:
    return np.empty(0), Estimates({}, {})
  both = np.concatenate([x.ravel() for x in scores.values()])
  # Thresholds over all agents: profiles are compared at the same scores.
  low, high = both.min(), both.max()
  thresholds = np.linspace(low - 0.05 * (high - low), high, THRESHOLDS)  # profiles begin at 1
  above = lambda x: np.mean(x[..., None] > thresholds, axis=(0, 1))
  return thresholds, _estimates(scores, above, resamples)


def _estimates(data: Mapping[str, Any], function: Any, resamples: int) -> Estimates:
  library, _ = rliable()
  return Estimates(*library.get_interval_estimates(data, function, reps=resamples))


def rliable() -> tuple[Any, Any]:
  """Imports the library and its metrics.

  Raises:
    UserError: it is not installed, or cannot be imported.
  """
  try:
    from rliable import library, metrics
  except (ImportError, TypeError) as error:  # its own imports fail with pandas 3 by a TypeError
    raise UserError(
      f"the report needs rliable, which cannot be imported ({error}): pip install "
      "'selftune[report]'."
    ) from error
  return library, metrics

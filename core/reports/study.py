"""The statistics of `selftune study`: what tuning is worth to agents, over environments."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from . import sensitivity, statistics
from .results import Results, Setting
from .statistics import Estimates

INTERVAL = (2.5, 97.5)  # percentiles of a bootstrap: 95 %
NONE = -1  # the number of no setting

Place = tuple[str, str]  # agent and environment


class Worth(NamedTuple):
  """What tuning is worth to an agent; the first axis of an array is [value, from, to]."""

  tuned: np.ndarray  # [3]: see `core.reports.sensitivity`
  common: np.ndarray  # [3]
  sensitivity: np.ndarray  # [3]
  dimension: np.ndarray  # [3]; NaN where its settings are no grid
  of_k: np.ndarray  # [3, D + 1], the score where k hyperparameters are tuned; [3, 1] if no grid
  search: np.ndarray  # [3, H], the expected best of N settings, a mean over environments
  star: int  # the setting for all; NONE where none has a score in each environment
  best: list[int]  # the setting that each environment has of its own


class Found(NamedTuple):
  """All that is known of agents that were tried with many settings."""

  results: Results
  worth: dict[str, Worth]
  at_star: dict[Place, np.ndarray]  # [3]: interquartile mean of raw scores at the setting for all
  at_best: dict[Place, np.ndarray]  # [3]: and at that environment's own
  thresholds: np.ndarray  # [N], normalised scores
  profiles: Estimates  # by agent: the fraction of its runs, of any setting, above each
  unprofiled: int  # settings in an environment that lack a run, so that no profile has them
  tries: dict[tuple[str, str], int | None]  # (a, b): how many settings b tries to match a untuned


def evaluate(results: Results, resamples: int) -> Found:
  """Computes all of it; the same for equal arguments.

  Args:
    results: of at least one run with a score.
    resamples: of the bootstraps, over seeds, apart for each setting in each environment.

  Raises:
    UserError: rliable is not installed.
  """
  runs = results.scores
  values = {agent: grid(settings) for agent, settings in results.settings.items()}
  points = {agent: sensitivity.means(x) for agent, x in runs.items()}
  low, high = sensitivity.percentiles(list(points.values()))
  drawn: dict[str, list[tuple[np.ndarray, ...]]] = {agent: [] for agent in runs}
  # Every resample is normalised by percentiles of its own: they are estimated from the same seeds.
  for means in sensitivity.resampled(runs, resamples):
    limits = sensitivity.percentiles(list(means.values()))
    for agent, x in means.items():
      drawn[agent].append(_worth(sensitivity.normalised(x, *limits), values[agent]))
  worth = {}
  for agent, x in points.items():
    gamma = sensitivity.normalised(x, low, high)
    resampled = [np.concatenate(parts) for parts in zip(*drawn[agent], strict=True)]
    # The point is of all seeds; its interval is that of the percentile bootstrap.
    estimates = [
      np.stack([point, *np.percentile(of, INTERVAL, axis=0)])
      for point, of in zip(_worth(gamma, values[agent]), resampled, strict=True)
    ]
    found = sensitivity.sensitivity(gamma)
    # An argmax names a setting even where none has a score.
    star = NONE if np.isnan(found.common) else int(found.star)
    best = [int(h) if np.isfinite(gamma[e]).any() else NONE for e, h in enumerate(found.best)]
    worth[agent] = Worth(*estimates, star=star, best=best)
  whole, unprofiled = _whole(runs, low, high)
  thresholds, profiles = statistics.profiles(whole, resamples)
  everywhere = {a: [w.star] * len(results.environments) for a, w in worth.items()}
  return Found(
    results,
    worth,
    _raw(results, everywhere, resamples),
    _raw(results, {a: w.best for a, w in worth.items()}, resamples),
    thresholds,
    profiles,
    unprofiled,
    {
      (a, b): sensitivity.tries_to_match(worth[b].search[0], float(worth[a].common[0]))
      for a, b in itertools.product(worth, worth)
    },
  )


def varied(settings: Sequence[Setting]) -> list[str]:
  """Lists the hyperparameters that have more than one value in these settings."""
  names = dict.fromkeys(name for setting in settings for name, _ in setting)
  return [name for name in names if len({dict(s).get(name) for s in settings}) > 1]


def grid(settings: Sequence[Setting]) -> np.ndarray | None:
  """Numbers which value of each hyperparameter that varies each setting has.

  Args:
    settings: H of them.

  Returns:
    Integers [H, D]; None where settings are not all combinations of these values, or D is too
    large.
  """
  names = varied(settings)
  values = [list(dict.fromkeys(dict(s).get(name) for s in settings)) for name in names]
  # No setting is there twice, so as many as there are combinations are all of them.
  if math.prod(map(len, values)) != len(settings) or len(names) > sensitivity.MOST_DIMENSIONS:
    return None
  rows = [[v.index(dict(s).get(n)) for n, v in zip(names, values, strict=True)] for s in settings]
  return np.array(rows, int).reshape(len(settings), len(names))


def _worth(gamma: np.ndarray, values: np.ndarray | None) -> tuple[np.ndarray, ...]:
  """Computes the first six of `Worth`, without intervals, of normalised scores [..., E, H]."""
  found = sensitivity.sensitivity(gamma)
  unknown = np.isnan(found.value)
  of_k = np.full((*unknown.shape, 1), np.nan)
  dimension = np.full(unknown.shape, np.nan)
  if values is not None:
    of_k = np.where(unknown[..., None], np.nan, sensitivity.tuned_of(gamma, values, found.star))
    dimension = np.where(unknown, np.nan, sensitivity.effective_dimension(of_k))
  # Which settings lack a score differs between environments.
  curves = [sensitivity.expected_best(gamma[..., e, :]) for e in range(gamma.shape[-2])]
  return found.tuned, found.common, found.value, dimension, of_k, np.mean(curves, axis=0)


def _whole(
  runs: Mapping[str, np.ndarray], low: np.ndarray, high: np.ndarray
) -> tuple[dict[str, np.ndarray], int]:
  """Normalises the scores of all runs, [S, settings in environments], where all S are there.

  Seeds are what is drawn anew, so each setting in each environment is a stratum, a column.
  """
  found, left_out = {}, 0
  for agent, x in runs.items():
    gamma = sensitivity.normalised(x.reshape(len(x), -1), low, high).reshape(-1, x.shape[-1])
    complete = ~np.isnan(gamma).any(-1)
    left_out += int((~complete).sum())
    if complete.any():
      found[agent] = gamma[complete].T
  return found, left_out


def _raw(
  results: Results, chosen: Mapping[str, Sequence[int]], resamples: int
) -> dict[Place, np.ndarray]:
  """Computes interquartile means of raw scores, [3], at one setting of each agent.

  Args:
    results: of all runs.
    chosen: agent -> the setting in each environment, E of them; NONE for none.
    resamples: of the bootstrap.
  """
  # rliable takes whole matrices [runs, tasks], so places with equally many runs are put together.
  columns: dict[tuple[str, int], dict[Place, np.ndarray]] = {}  # those of as many runs
  for agent, settings in chosen.items():
    for e, h in enumerate(settings):
      scores = results.scores[agent][e, h]
      scores = scores[~np.isnan(scores)]
      if h != NONE and scores.size:
        columns.setdefault((agent, scores.size), {})[agent, results.environments[e]] = scores
  runs = {key: np.stack(list(of.values()), axis=1) for key, of in columns.items()}
  found = statistics.interquartile_means(runs, resamples)
  return {place: found[key][:, i] for key, of in columns.items() for i, place in enumerate(of)}

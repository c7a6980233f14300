"""Truncation selection: the worst are replaced by the best."""

import dataclasses
from typing import Annotated

import numpy as np

from ...core.api import Range, register

Half = Annotated[float, Range("above 0, to 0.5", lambda x: 0 < x <= 0.5, 0, 0.5)]


@register("exploit", "truncation")
@dataclasses.dataclass(frozen=True)
class Truncation:
  """The worst `quantile` of the runs become copies of the best (Jaderberg et al. 2017).

  Of N runs that have scores the quantile is n = max(1, floor(quantile N)). Each of the n worst
  becomes a copy of one of the n best, drawn evenly; so does every run that diverged. A run is
  never replaced by one that is not better.
  """

  quantile: Half = 0.25

  def __call__(self, rng: np.random.Generator, scores: np.ndarray) -> np.ndarray:
    """Chooses parents, int [R], by scores [R]: NaN takes no part, -inf diverged."""
    parents = np.arange(len(scores))
    known = np.flatnonzero(~np.isnan(scores))
    ranked = known[np.argsort(scores[known], kind="stable")]  # worst first; ties by number
    n = max(1, int(self.quantile * len(ranked) + 1e-9))  # 0.29 x 100 is 28.999... in floats
    # With many diverged runs the best n may hold some of them, which nobody is to copy.
    best = ranked[-n:]
    best = best[np.isfinite(scores[best])]
    # -inf ranks lowest: all that diverged are among the worst, though they be more than n.
    worst = ranked[: max(n, int(np.isneginf(scores[known]).sum()))]
    for run in worst:
      # Drawn for every one of them, used or not: how many draws there are tells nothing else.
      draw = rng.random()
      parent = best[int(draw * len(best))] if len(best) else run
      if scores[parent] > scores[run]:
        parents[run] = parent
    return parents

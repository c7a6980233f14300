"""Binary tournaments: each run meets another one."""

import dataclasses

import numpy as np

from ...core.api import register


@register("exploit", "tournament")
@dataclasses.dataclass(frozen=True)
class Tournament:
  """Each run meets another one, drawn evenly, and becomes its copy if that has the better score.

  The binary tournament of Jaderberg et al. (2017). About half of the runs are replaced at
  an exchange, so it takes exchanges that lie farther apart than those of `truncation`.
  """

  def __call__(self, rng: np.random.Generator, scores: np.ndarray) -> np.ndarray:
    """Chooses parents, int [R], by scores [R]: NaN takes no part, -inf diverged."""
    parents = np.arange(len(scores))
    known = np.flatnonzero(~np.isnan(scores))
    # Who wins is decided by scores from before, and copied are states from before: a run that is
    # replaced can be the parent of another.
    for place, run in enumerate(known if len(known) > 1 else ()):
      met = int(rng.integers(len(known) - 1))
      other = known[met + (met >= place)]  # any but itself
      if scores[other] > scores[run]:
        parents[run] = other
    return parents

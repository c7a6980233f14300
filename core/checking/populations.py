"""The contracts of what a population decides by: who copies whom, and what a copy tries."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ..api import checks
from ..api.contracts import Exploit, Explore, ExploreInputs, Interval, Number
from ..runs.population import checked_parents
from .rows import Check, Failed, Found

R = 8  # runs
# All differ; some are missing; all are equal; none takes part; all have diverged.
SCORES = (
  np.arange(R, dtype=float),
  np.array([3.0, np.nan, 1.0, 5.0, -np.inf, 4.0, 2.0, 5.0]),  # one took no part, one diverged
  np.zeros(R),
  np.full(R, np.nan),
  np.full(R, -np.inf),
)
NUMBERS = {
  "a.rate": Number(1e-4, 1.0, "log"),
  "a.fraction": Number(0.1, 0.9, "odds"),
  "b.number": Number(-2.0, 3.0, "linear"),
}


def exploit(part: str, plugin: Exploit) -> Iterator[Check]:
  """Checks of an Exploit, on scores of 8 runs."""

  def chosen(scores: np.ndarray) -> np.ndarray:
    given = plugin(np.random.default_rng(1), scores.copy())
    return checked_parents(checks.who(plugin), given, scores)

  def better() -> Found:
    copies = 0
    for scores in SCORES:
      parents = chosen(scores)
      moved = parents != np.arange(R)
      # There may be no copy at all, as where scores are equal: only those that are made are asked.
      if not np.all(scores[parents[moved]] > scores[moved]):
        raise Failed(f"a copy's parent is no better: parents {parents.tolist()} of {scores}")
      copies += int(moved.sum())
    return Found(copies, f"copies of {R * len(SCORES)} runs")

  yield Check(part, "parents are better", better)
  yield Check(part, "equal draws, equal choice", lambda: _equal(lambda: chosen(SCORES[1])))


def explore(part: str, plugin: Explore) -> Iterator[Check]:
  """Checks of an Explore, on three numbers of 8 runs, over five exchanges."""
  rng = np.random.default_rng(0)
  first = {n: x.low + (x.high - x.low) * rng.random(R) for n, x in NUMBERS.items()}
  as_it_was = {n: x.copy() for n, x in first.items()}

  def chosen() -> list[Mapping[str, np.ndarray]]:
    plugin.check(NUMBERS)
    # Run 2 becomes a copy of run 3, and run 4 of run 5. The history grows as a population's does.
    parents = np.array([0, 1, 3, 3, 5, 5, 6, 7])
    found, history = [], []
    for scores in SCORES:
      done = Interval({n: x.copy() for n, x in first.items()}, np.ones(R), scores)
      history = [*history, done][-plugin.memory :]
      inputs = ExploreInputs(parents, NUMBERS, first, tuple(history))
      found.append(plugin(np.random.default_rng(1), inputs))
    return found

  def shapes() -> Found:
    for given in chosen():
      if given.keys() != NUMBERS.keys():
        raise Failed(f"gave settings of {sorted(given)}; wanted: {sorted(NUMBERS)}")
      for name, values in given.items():
        values = np.asarray(values)
        if values.shape != (R,) or not np.all(np.isfinite(values)):
          raise Failed(f"gave '{name}': {checks.described(values)}; wanted: finite numbers [{R}]")
    if any(not np.array_equal(first[n], x) for n, x in as_it_was.items()):
      raise Failed("it changes the arrays that it is given")
    return Found(note=f"{len(NUMBERS)} numbers of {R} runs")

  yield Check(part, "settings", shapes)
  yield Check(part, "equal draws, equal choice", lambda: _equal(chosen))


def _equal(choose: Callable[[], Any]) -> Found:
  """Checks that what is chosen follows from the generator alone."""
  np.testing.assert_equal(choose(), choose(), "two calls with equal generators differ")
  return Found(note="twice")

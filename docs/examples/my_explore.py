"""The settings of a copy: its parent's, and a little noise."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from selftune import ExploreInputs, Number, Positive, register


@register("explore", "noise")
@dataclasses.dataclass(frozen=True)
class Noise:
  """Gaussian steps on the scale of each number, so that 0.1 is about a tenth of a learning rate."""

  deviation: Positive = 0.1
  memory = 1  # of the intervals between exchanges, the one that has just ended

  def check(self, numbers: Mapping[str, Number]) -> None:
    pass  # any number will do

  def __call__(self, rng: np.random.Generator, x: ExploreInputs) -> Mapping[str, np.ndarray]:
    chosen = {}
    for name, number in x.numbers.items():
      parents = number.coordinate(x.history[-1].settings[name][x.parents])
      chosen[name] = number.value(parents + rng.normal(0, self.deviation, len(x.parents)))
    return chosen

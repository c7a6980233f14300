"""Perturbation: a copy tries its parent's settings, each a little more or less."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from ...core.api import ExploreInputs, Fraction, Number, register


@register("explore", "perturb")
@dataclasses.dataclass(frozen=True)
class Perturb:
  """Each setting of a copy is its parent's times a factor, drawn evenly from `factors`.

  As in Jaderberg et al. (2017), but for numbers from 0 to 1, a discount or a trace decay:
  of these the odds x / (1 - x) are multiplied, which near 0 is to multiply x, and near 1 to divide
  1 - x; at 0 and at 1 they stay. With probability `resample` a number is drawn anew instead, from
  the values that runs began training with.
  """

  factors: tuple[float, ...] = (0.8, 1.25)
  resample: Fraction = 0.0
  memory = 1  # no annotation: no field

  def __post_init__(self):
    if not self.factors or min(self.factors) <= 0:
      raise ValueError(f"perturb.factors = {self.factors} must be numbers above 0, one or more.")

  def check(self, numbers: Mapping[str, Number]) -> None:
    """Refuses nothing: every number can be multiplied."""

  def __call__(self, rng: np.random.Generator, x: ExploreInputs) -> Mapping[str, np.ndarray]:
    """Chooses settings, by name [R]; of runs that are no copies they are not used."""
    runs, parents = len(x.parents), x.parents
    chosen = {}
    for name, number in x.numbers.items():
      # All runs draw, copies or not: what one draws does not depend on which others are copies.
      factors = np.asarray(self.factors)[rng.integers(len(self.factors), size=runs)]
      anew = x.first[name][rng.integers(runs, size=runs)]
      resampled = rng.random(runs) < self.resample
      # The parent's settings in the interval that ends now, from which the copy departs.
      value = x.history[-1].settings[name][parents]
      if number.scale == "odds":
        # f o / (1 + f o) of o = x / (1 - x), without the division by 0 at 1.
        multiplied = factors * value / (1 - value + factors * value)
      else:
        multiplied = factors * value
      chosen[name] = np.where(resampled, anew, multiplied)
    return chosen

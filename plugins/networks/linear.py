"""The network without layers: value and policy linear in the observation."""

import dataclasses
import math
from pathlib import Path

from ...core.api import EnvSpec, Native, Network, register
from ._compose import as_input
from ._linear import linear_network


@register("network", "linear")
@dataclasses.dataclass(frozen=True)
class Linear:
  """Value and policy linear in the flattened observation, without bias; all weights 0 at first."""

  def build(self, spec: EnvSpec, policy_size: int, heads: int) -> Network:
    """Builds the network for observations of any shape [...], flattened."""

    def features(observation, dtype):
      return as_input(observation, dtype).reshape(*observation.shape[:2], size)

    size = math.prod(spec.observation.shape)
    return linear_network(features, size, policy_size, heads)

  def native(self) -> Native:
    """Returns the form in C++."""
    return Native(Path(__file__).with_name("_features.h"), "Same")

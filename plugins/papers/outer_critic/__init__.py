"""The figure of the outer critic's paper."""

import dataclasses
from collections.abc import Mapping

from ....core.api import Figure, register
from . import snake


@register("paper", "bonnet2022")
@dataclasses.dataclass(frozen=True)
class OuterCritic:
  """Debiasing meta-gradient RL by learning the outer value function (Bonnet et al. 2022)."""

  def figures(self) -> Mapping[str, Figure]:
    """Returns the figure of the paper by name, 'outer_critic/...'."""
    return {"outer_critic/snake": snake.FIGURE}

"""The figures of the Metatrace paper."""

import dataclasses
from collections.abc import Mapping

from ....core.api import Figure, register
from . import alphas, atari, drifts


@register("paper", "young2018")
@dataclasses.dataclass(frozen=True)
class Metatrace:
  """Metatrace actor-critic (Young, Wang and Taylor 2018): mountain car, drifting, and Atari."""

  def figures(self) -> Mapping[str, Figure]:
    """Returns the figures of the paper by name, 'metatrace/...'."""
    return {
      "metatrace/fig1": alphas.figure("none", "8 seconds"),
      "metatrace/fig2": alphas.figure("scalar", "a minute", ("vector",)),
      "metatrace/fig3": alphas.figure("scalar_raw", "30 seconds", ("scalar",)),
      "metatrace/fig4": alphas.figure("sid", "20 seconds", ("scalar_raw",)),
      "metatrace/fig5": alphas.figure("nosid", "40 seconds", ("scalar",)),
      "metatrace/fig6": drifts.FIG6,
      "metatrace/fig7": drifts.FIG7,
      "metatrace/fig8": atari.FIG8,
      "metatrace/fig9": atari.FIG9,
    }

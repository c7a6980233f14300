"""The figures of the STAC paper."""

import dataclasses
from collections.abc import Mapping

from ....core.api import Figure, register
from . import atari, control, tuned


@register("paper", "zahavy2020")
@dataclasses.dataclass(frozen=True)
class Stac:
  """A self-tuning actor-critic algorithm (Zahavy et al. 2020): Atari, DM Control, Real-World RL."""

  def figures(self) -> Mapping[str, Figure]:
    """Returns the figures of the paper by name, 'stac/...'."""
    return {
      "stac/fig2a": atari.figure("fig2a"),
      "stac/fig2b": atari.figure("fig2b"),
      "stac/fig3a": control.figure("features"),
      "stac/fig3b": control.figure("pixels"),
      "stac/fig3c": control.figure("rwrl"),
      "stac/fig4c": atari.figure("fig4c"),
      "stac/fig5a": tuned.figure("stacx"),
      "stac/fig5b": tuned.figure("stacx_split_alpha"),
      "stac/alpha": atari.figure("alpha"),
      "stac/heads": atari.figure("heads"),
      "stac/behaviour": atari.figure("behaviour"),
      "stac/kl": atari.figure("kl"),
      "stac/embedding": atari.figure("embedding"),
    }

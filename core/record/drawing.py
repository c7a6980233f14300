"""What every picture is drawn with: names as they are, colours, and one way to save."""

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..api import files

DPI = 120
COLOURS = 10  # lines that Matplotlib's own colours tell apart; more have a legend below the panels
LEGEND = 95  # characters in a row of a legend that lies outside of the panels
LONGEST = 80  # characters of a name in a picture
_LOG = logging.getLogger(__name__)


def save(figures: Mapping[Path, Any]) -> None:
  """Writes figures as PNGs; what Matplotlib warns of is told once, in one line.

  Raises:
    RunError: one cannot be written.
  """
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for out, drawn in figures.items():
      with files.whole(out, "wb") as file:
        drawn.savefig(file, dpi=DPI, format="png")
  said = {str(warning.message) for warning in caught}
  if without := sorted(message for message in said if message.startswith("Glyph ")):
    _LOG.warning("Matplotlib's font lacks characters, which are drawn as boxes: %s", without[0])
  for message in sorted(said.difference(without)):
    _LOG.warning("%s: %s", ", ".join(map(str, figures)), message)


def shown(name: str, longest: int = LONGEST) -> str:
  """Returns a name as a picture has room for it: on one line, without the middle if it is long."""
  # Names of folders may hold bytes that are no UTF-8; fonts would fail on their surrogates.
  text = " ".join(name.encode("utf-8", "replace").decode().split())
  return text if len(text) <= longest else f"{text[: longest // 2]} … {text[-longest // 2 :]}"


def legend(owner: Any, lines: Sequence[Any], names: Sequence[str], **look: Any) -> None:
  """Draws a legend of names as they are: `$` begins no formula, a leading `_` hides no line."""
  drawn = owner.legend(lines, [""] * len(lines), frameon=False, **look)
  for text, name in zip(drawn.get_texts(), names, strict=True):
    text.set(text=shown(name), parse_math=False)


def line_colours(lines: int) -> list[Any]:
  """Returns a colour a line: told apart as well as can be; of too many lines, in order."""
  from matplotlib import colormaps

  if lines <= COLOURS:
    return [f"C{i}" for i in range(lines)]
  return list(colormaps["viridis"](np.linspace(0, 0.95, lines)))

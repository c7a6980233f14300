"""The contract of plugins that see no array: writers and papers."""

import contextlib
import io
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import config
from ..api import checks
from ..api.contracts import RunInfo, TakesEvaluations, TakesHistograms, WriterPlugin
from ..api.papers import Figure, Paper
from ..api.types import Episode, Histogram
from .rows import Check, Failed, Found, NotChecked

ROW = {"env_steps": 20, "wall_time": 0.5, "episode_return": 1.0, "loss/total/0": 0.25}


def writer(part: str, plugin: WriterPlugin, alone: bool) -> Iterator[Check]:
  """Checks of a writer: a log of two rows and an episode, in a folder of its own.

  Args:
    part: names it.
    plugin: the plugin.
    alone: whether it was asked for by name. Else one that a run can do without is not opened: it
      may be a service's, which would show a run that is none.
  """

  def whole() -> Found:
    if not (alone or plugin.required):
      raise NotChecked("a run can do without it; ask for it by its name")
    # A writer that shows something, such as a bar, would show it amid the table.
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(said):
      # The log of a short run: all that the writer says it takes, and env steps that never go back.
      log = checks.opened(plugin, RunInfo(str(Path(folder) / "run"), {}, 100, 0, {}))
      log.write(ROW)
      log.write_episodes([Episode(20, 1.0, 7)])
      if isinstance(log, TakesEvaluations):
        log.write_evaluation({"env_steps": 20, "mean": 1.0})
      if isinstance(log, TakesHistograms):
        bins = Histogram(np.array([1, 2]), np.array([0.0, 0.5, 1.0]))
        log.write_histograms({"beta": bins}, ROW)
      log.write(ROW | {"env_steps": 40})
      log.close()
      written = [p.name for p in sorted(Path(folder).rglob("*")) if p.is_file()]
    return Found(note=", ".join(written[:4]))

  yield Check(part, "writes a log", whole)


def paper(part: str, plugin: Paper) -> Iterator[Check]:
  """Checks of a paper: its figures, and that the configuration of each one's first cells loads."""

  def figures() -> Mapping[str, Figure]:
    found: Any = plugin.figures()
    for name, figure in found.items():
      if not isinstance(figure, Figure) or name.count("/") != 1:
        raise Failed(
          f"figures() gave {name!r}: {checks.described(figure)}; wanted: a Figure by the name "
          "'paper/figure'"
        )
    return found

  def cells() -> Found:
    loaded = 0
    for name, figure in figures().items():
      for group in (figure.cells, figure.quick):
        if not group:
          raise Failed(f"{name} has no cells, or no quick ones")
        config.load(group[0].experiment, group[0].bindings)
        loaded += 1
    return Found(note=f"{loaded} configurations")

  yield Check(part, "figures", lambda: Found(note=", ".join(figures())))
  yield Check(part, "cells load", cells)

"""How runs are named in pictures and tables: by their workdir, without its seed, or their settings.

Runs whose names differ only in a trailing `seed<number>` are of one group. One of many runs,
WORKDIR/runs/<number>, is named by its settings, and those of equal settings are one group too.
"""

import csv
import functools
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..api import files, jsonl
from . import lineage

_LOG = logging.getLogger(__name__)
_SEED = re.compile(r"[-_.]?seed[-_=]?\d+$")


def labels(workdirs: Sequence[Path]) -> list[str]:
  """Names the line of each run; names are equal for runs that differ only in their seed.

  `runs/stacx_seed0` is a run of `stacx`, and so is `runs/stacx/seed0`; a name that no other run
  shares is kept whole. Of `sweep/runs/007` it is `sweep` and the settings of that run.
  """
  stems = [stem(workdir) for workdir in workdirs]
  # Read once, however many runs of it are drawn.
  settings_of = functools.cache(_settings)
  shared = lambda name, workdir: name if stems.count(name) > 1 else Path(workdir).absolute().name
  return [
    _setting(workdir, settings_of) or shared(name, workdir)
    for name, workdir in zip(stems, workdirs, strict=True)
  ]


def _settings(whole: Path) -> dict[int, dict[str, Any]]:
  """Reads the settings of the runs in a folder by number, from either of its tables.

  It may lack a run whose folder is there, as that of another sweep.
  """
  points, table = whole / "points.jsonl", whole / "runs.csv"
  if points.is_file():
    return dict(enumerate(jsonl.read(points)))
  rows = csv.DictReader(files.read(table).splitlines()) if table.is_file() else ()
  return {int(row["run"]): {k: float(x) for k, x in row.items() if "." in k} for row in rows}


def _setting(workdir: Path, settings_of: Callable[[Path], dict[int, dict[str, Any]]]) -> str:
  """Labels one of many runs, a point of a sweep or of `@runs()`, by its settings; '' for others."""
  path = Path(workdir).absolute()
  whole = path.parent.parent  # of /x it is /, too
  if (whole / lineage.FILE).is_file() and path.parent.name == "runs":
    return f"{whole.name} run {path.name}"  # its settings were others now and then
  if path.parent.name != "runs" or not path.name.isdecimal():
    return ""
  settings = settings_of(whole).get(int(path.name))
  if settings is None:
    return ""
  # Of a study it is cells/<agent>/<environment>. Seeds are no setting: they are averaged.
  name = f"{whole.parent.name} {whole.name}" if whole.parent.parent.name == "cells" else whole.name
  return f"{name} {told({k: v for k, v in settings.items() if k != 'train.seed'})}".strip()


def told(settings: Mapping[str, Any]) -> str:
  """Tells settings in words: `a.b = 0.1, c.d = @e()`."""
  return ", ".join(f"{name} = {digits(value)}" for name, value in settings.items())


def digits(value: Any) -> str:
  """Writes a value; of a float the 7 digits that float32 has, as fewer would make two one."""
  return f"{value:.7g}" if isinstance(value, float) else str(value)


def stem(workdir: Path) -> str:
  """Returns a workdir's name without its seed: stacx of `runs/stacx_seed0`, `runs/stacx/seed0`."""
  path = Path(workdir).absolute()
  return _SEED.sub("", path.name) or path.parent.name


def holding(workdirs: Sequence[Path], name: str) -> Sequence[Path]:
  """Returns the workdirs that hold a file of this name, warning of the others; all if none does."""
  found = [workdir for workdir in workdirs if (workdir / name).is_file()]
  if found and len(found) < len(workdirs):
    lost = ", ".join(str(workdir) for workdir in workdirs if workdir not in found)
    _LOG.warning("left out, for want of a %s: %s", name, lost)
  return found or workdirs

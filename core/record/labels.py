"""How runs are named in pictures and tables: by their workdir, without its seed, or their settings.

Runs whose names differ only in a trailing `seed<number>` are of one group. One of many runs,
WORKDIR/runs/<number>, is named by its settings, and those of equal settings are one group too.
"""

import csv
import functools
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..api import files, jsonl
from . import lineage

_LOG = logging.getLogger(__name__)
_SEED = re.compile(r"[-_.]?seed[-_=]?\d+$")


class _Label(NamedTuple):
  """What a run is called, and the folder in which that is a name."""

  folder: Path
  name: str


def labels(workdirs: Sequence[Path]) -> list[str]:
  """Names the line of each run; names are equal for runs that differ only in their seed.

  `runs/stacx_seed0` is a run of `stacx`, and so is `runs/stacx/seed0`; a name that no other run
  shares is kept whole. Of `sweep/runs/007` it is `sweep` and the settings of that run. `a/x_seed0`
  and `b/x_seed0` are of two experiments, `a/x` and `b/x`.
  """
  paths = [Path(workdir).absolute() for workdir in workdirs]
  stems = [_stem(path) for path in paths]
  names = [of.name for of in stems]
  # Read once, however many runs of it are drawn.
  settings_of = functools.cache(_settings)

  def label(path: Path, of: _Label) -> _Label:
    whole = of if names.count(of.name) > 1 else of._replace(name=path.name)
    return _setting(path, settings_of) or whole

  return _apart(paths, [label(path, of) for path, of in zip(paths, stems, strict=True)])


def _apart(paths: Sequence[Path], found: Sequence[_Label]) -> list[str]:
  """Tells runs of several folders apart that have one label: by what differs of the folders."""
  groups: dict[str, dict[Path, Path]] = {}  # label -> run -> folder
  for path, label in zip(paths, found, strict=True):
    groups.setdefault(label.name, {})[path] = label.folder

  def apart(label: _Label) -> str:
    group = groups[label.name]
    # Runs of one experiment differ in their seed, and so in their name.
    if len({path.name for path in group}) == len(group):
      return label.name
    return str(label.folder.relative_to(os.path.commonpath(group.values())) / label.name)

  return [apart(label) for label in found]


def _settings(whole: Path) -> dict[int, dict[str, Any]]:
  """Reads the settings of the runs in a folder by number, from either of its tables.

  It may lack a run whose folder is there, as that of another sweep.
  """
  points, table = whole / "points.jsonl", whole / "runs.csv"
  if points.is_file():
    return dict(enumerate(jsonl.read(points)))
  rows = csv.DictReader(files.read(table).splitlines()) if table.is_file() else ()
  return {int(row["run"]): {k: float(x) for k, x in row.items() if "." in k} for row in rows}


def _setting(path: Path, settings_of: Callable[[Path], dict[int, dict[str, Any]]]) -> _Label | None:
  """Labels one of many runs, a point of a sweep or of `@runs()`, by its settings; others: None."""
  whole = path.parent.parent  # of /x it is /, too
  if (whole / lineage.FILE).is_file() and path.parent.name == "runs":
    # Its settings were others now and then.
    return _Label(whole.parent, f"{whole.name} run {path.name}")
  if path.parent.name != "runs" or not path.name.isdecimal():
    return None
  settings = settings_of(whole).get(int(path.name))
  if settings is None:
    return None
  folder, name = whole.parent, whole.name
  if folder.parent.name == "cells":  # of a study it is cells/<agent>/<environment>
    folder, name = folder.parent.parent, f"{folder.name} {name}"
  # Seeds are no setting: they are averaged.
  varied = {k: v for k, v in settings.items() if k != "train.seed"}
  return _Label(folder, f"{name} {told(varied)}".strip())


def told(settings: Mapping[str, Any]) -> str:
  """Tells settings in words: `a.b = 0.1, c.d = @e()`."""
  return ", ".join(f"{name} = {digits(value)}" for name, value in settings.items())


def digits(value: Any) -> str:
  """Writes a value; of a float the 7 digits that float32 has, as fewer would make two one."""
  return f"{value:.7g}" if isinstance(value, float) else str(value)


def stem(workdir: Path) -> str:
  """Returns a workdir's name without its seed: stacx of `runs/stacx_seed0`, `runs/stacx/seed0`."""
  return _stem(Path(workdir).absolute()).name


def _stem(path: Path) -> _Label:
  if name := _SEED.sub("", path.name):
    return _Label(path.parent, name)
  return _Label(path.parent.parent, path.parent.name)


def holding(workdirs: Sequence[Path], name: str) -> Sequence[Path]:
  """Returns the workdirs that hold a file of this name, warning of the others; all if none does."""
  found = [workdir for workdir in workdirs if (workdir / name).is_file()]
  if found and len(found) < len(workdirs):
    lost = ", ".join(str(workdir) for workdir in workdirs if workdir not in found)
    _LOG.warning("left out, for want of a %s: %s", name, lost)
  return found or workdirs

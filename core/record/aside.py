"""Logs that lie where a run begins from nothing: they are kept, as the run writes its own there.

They may be of a run whose checkpoints are gone, of one that was killed before its first, or of
somebody else.
"""

import itertools
from pathlib import Path

from ..api import files
from . import lineage

NAMES = ("metrics.jsonl", "episodes.jsonl", "eval.jsonl", "histograms.jsonl", lineage.FILE)
OF_ALL = (
  "runs.csv",
  "scored.json",
  "curves.png",
)  # in the workdir alone, also where it has many runs


def set_aside(workdir: Path) -> Path | None:
  """Moves logs that hold anything, those of each of many runs too, to WORKDIR/before-<number>.

  Returns:
    The new folder, where they lie as they did in the workdir; None if there are none.

  Raises:
    RunError: they cannot be moved.
  """
  try:
    folders = (workdir, *_of_runs(workdir))
    of_all = (workdir / name for name in OF_ALL)
    places = [*of_all, *(folder / name for folder in folders for name in NAMES)]
    found = [path for path in places if path.is_file() and path.stat().st_size]
    if not found:
      return None
    numbered = (workdir / f"before-{number}" for number in itertools.count(1))
    kept = next(folder for folder in numbered if not folder.exists())
    for path in found:
      target = kept / path.relative_to(workdir)
      target.parent.mkdir(parents=True, exist_ok=True)
      path.rename(target)
    return kept
  except OSError as error:
    raise files.cannot_write(workdir, error) from error


def _of_runs(workdir: Path) -> list[Path]:
  """Lists the folders with the logs of each of many runs that are one program."""
  found = sorted((workdir / "runs").glob("[0-9]*"))
  # One with a configuration is the workdir of another run, which may be training.
  return [f for f in found if f.name.isdecimal() and not (f / "config.gin").exists()]

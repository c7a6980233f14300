"""Starts of a run: WORKDIR/restarts.jsonl, a line for each.

A line holds `env_steps` (made before the start), `init_from` (the checkpoint that the weights were
taken from, or null), `imports` (the folders of modules that the configuration imports) and
`env_seeds`, those of the environments, by pool.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ..api import files, jsonl

FILE = "restarts.jsonl"


def count(path: Path) -> int:
  """Counts the starts so far, torn lines too; none where there is no such file."""
  return len(files.read(path).splitlines()) if path.exists() else 0


def read(path: Path) -> list[dict[str, Any]]:
  """Reads the starts so far, in order; none where there is no such file."""
  return list(jsonl.read(path)) if path.exists() else []


def append(path: Path, start: Mapping[str, Any]) -> None:
  """Writes a start.

  Raises:
    RunError: it cannot be written.
  """
  try:
    # A process that was killed in the middle of a line would else have this one glued to it.
    torn = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
    with path.open("a", encoding="utf-8") as file:
      file.write("\n" * torn + json.dumps(start) + "\n")
  except OSError as error:
    raise files.cannot_write(path, error) from error


def env_seeds(path: Path) -> set[int]:
  """Returns the seeds of all environments of all starts."""
  return {seed for start in read(path) for seed in _integers(start.get("env_seeds"))}


def folders(text: str) -> list[str]:
  """Lists the folders in which the modules lie that a configuration imports."""
  names = re.findall(r"^(?:import|from) (\w+)", text, re.MULTILINE)
  return [str(folder) for name in names for folder in _folders_of(sys.modules[name])]


def _folders_of(module: ModuleType) -> list[Path]:
  """Lists the folders that Python finds a module in; none of one that is built into Python."""
  if file := getattr(module, "__file__", None):
    path = Path(file)
    return [path.parents[1] if path.name == "__init__.py" else path.parent]
  # A package without an __init__.py has no file, and may lie in several folders.
  return [Path(folder).parent for folder in getattr(module, "__path__", ())]


def _integers(nested: Any) -> Iterator[int]:
  """Yields the integers in a list of lists of any depth."""
  if isinstance(nested, list):
    for item in nested:
      yield from _integers(item)
  elif isinstance(nested, int):
    yield nested

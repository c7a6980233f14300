"""Subprocesses of Python, which import what this process does, and the cores for them."""

import os
import sys
from pathlib import Path

_HOME = str(Path(__file__).parents[2])  # where the package lies


def python(code: str) -> list[str]:
  """Returns the command of a new Python that runs `code`; arguments for it may follow.

  Python would put the current folder first on the path of what it is told to run, so that a user's
  own optax.py there would be taken for the library. Modules beside a gin file are still found:
  reading the file puts their folder last.
  """
  return [sys.executable, "-P", "-c", f"import sys; sys.path.append({_HOME!r}); {code}"]


def cores() -> int:
  """Returns the number of cores that this process may run on."""
  affinity = getattr(os, "sched_getaffinity", None)  # not on every system
  return len(affinity(0)) if affinity else os.cpu_count() or 1

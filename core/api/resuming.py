"""Resumable settings: a resumed run may change how long, on what, how it logs; not what it is."""

import dataclasses
from typing import Any


def resumable(default: Any = dataclasses.MISSING) -> Any:
  """Declares a dataclass field whose value may differ when a run goes on, as hardware's may.

  Args:
    default: of the field; without one, it must be configured.
  """
  return dataclasses.field(default=default, metadata={"resumable": True})


def is_resumable(cls: type, name: str) -> bool:
  """Says whether the field of that name is declared `resumable`."""
  return any(f.name == name and "resumable" in f.metadata for f in dataclasses.fields(cls))

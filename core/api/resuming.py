"""Settings that a resumed run may change: how long, on what, how it is logged; not what it is."""

import dataclasses
from typing import Any


def resumable(default: Any = dataclasses.MISSING) -> Any:
  """Declares a dataclass field whose value may differ when a run goes on, as hardware's may.

  Args:
    default: of the field; without one, it must be configured.
  """
  return dataclasses.field(default=default, metadata={"resumable": True})


def is_resumable(cls: type, name: str) -> bool:
  """Whether the field of that name says so."""
  return any(f.name == name and "resumable" in f.metadata for f in dataclasses.fields(cls))

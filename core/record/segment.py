"""What a member of a population trains between two exchanges, where it is a process of its own."""

import json
from pathlib import Path
from typing import NamedTuple

from ..api import files, jsonl

FILE = "reached.json"


class Segment(NamedTuple):
  """A part of a run."""

  exchange: int  # number of the one that it begins with; 0 is the start
  until: int  # env steps of the run at which it ends
  varied: tuple[str, ...]  # 'component.field' of what may differ from the part before it
  parent: str | None = None  # PATH@STEP: the run goes on as a copy of this checkpoint

  def to_text(self) -> str:
    """Returns it as one argument of a command."""
    return json.dumps(self)

  @classmethod
  def from_text(cls, text: str) -> "Segment":
    """Returns the segment that `to_text` has made a text of."""
    exchange, until, varied, parent = json.loads(text)
    return cls(exchange, until, tuple(varied), parent)


class Reached(NamedTuple):
  """How a segment ended; WORKDIR/reached.json."""

  exchange: int  # that the segment began with
  diverged: bool = False
  done: bool = False  # it was the last one
  env_steps: int = 0  # of the run; what follows is not known of one that diverged
  updates: int = 0  # the checkpoint is named by these


def write(workdir: Path, reached: Reached) -> None:
  """Keeps how a segment ended.

  Raises:
    RunError: it cannot be written.
  """
  files.write(workdir / FILE, json.dumps(reached._asdict()) + "\n")


def read(workdir: Path, exchange: int) -> Reached | None:
  """Returns how the segment ended that began with this exchange; None if it has not."""
  path = workdir / FILE
  rows = [Reached(**row) for row in (jsonl.read(path) if path.is_file() else ())]
  # Until a segment ends the file still tells of the one before, which began with another exchange.
  return next((reached for reached in rows if reached.exchange == exchange), None)

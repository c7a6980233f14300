"""The 57 Atari games, with the scores that returns are normalised by."""

import csv
import functools
from collections.abc import Mapping
from importlib import resources
from typing import NamedTuple


class Game(NamedTuple):
  """One Atari game."""

  task: str  # EnvPool's id
  random_score: float
  human_score: float


@functools.cache
def games() -> Mapping[str, Game]:
  """Returns the games by snake_case name; scores as in dqn_zoo, the set MuZero and rliable use."""
  table = resources.files("selftune").joinpath("data", "atari57.csv").read_text("utf-8")
  return {
    row["game"]: Game(row["envpool_task_id"], float(row["random_score"]), float(row["human_score"]))
    for row in csv.DictReader(table.splitlines())
  }

"""W&B sweep files, and the points that W&B's `sweeps` library asks for."""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..api import files, jsonl
from ..api.errors import UserError
from . import document, library
from .library import MOST, Asked, Outcome, Point

MACRO = "${args_no_hyphens}"
COMMAND = f"command: [selftune, train, EXPERIMENT, '{MACRO}']"
VARIABLE = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")  # as W&B has it
UNCAPPED = ("random", "bayes")  # methods that would go on forever

Parse = Callable[[Sequence[str]], tuple[str, Sequence[str]]]
# words of a command, from `train` on -> its experiment and bindings; raises UserError


class Sweep(NamedTuple):
  """What a sweep file says."""

  path: Path
  config: dict[str, Any]  # as W&B reads it; `metric` is always there
  experiment: str
  bindings: tuple[str, ...]  # the same for every point

  @property
  def metric(self) -> str:
    return self.config["metric"]["name"]

  @property
  def maximize(self) -> bool:
    return self.config["metric"].get("goal", "minimize") == "maximize"  # W&B's default

  @property
  def count(self) -> int | None:
    """How many points there are at most; None for as many as the method gives."""
    return self.config.get("run_cap")

  @property
  def bayes(self) -> bool:
    """Whether a point depends on the results of those before it."""
    return self.config["method"] == "bayes"

  @property
  def asked(self) -> Asked:
    """The parts of the file that W&B's library is given."""
    # Apart from the path, fields are named as the keys of the file are.
    return Asked(self.path, *(self.config[key] for key in Asked._fields[1:]))


def read(name: str, parse: Parse) -> Sweep:
  """Reads a sweep file.

  Args:
    name: a YAML file, or the name of a packaged one, such as `sweeps/catch_stac_discount`.
    parse: reads the arguments of `selftune train`: the command line knows them.

  Raises:
    UserError: it is no sweep, or its command is none that `parse` takes.
  """
  path = document.find(name, "sweep")
  found = document.read(path)
  needed = ("method", "parameters", "command")
  if not isinstance(found, dict) or not all(found.get(key) for key in needed):
    raise UserError(f"{path}: a sweep has method, parameters and {COMMAND}.")
  # Here every sweep ranks its points, whether or not its method needs a metric.
  found.setdefault("metric", {"name": "episode_return", "goal": "maximize"})
  if not isinstance(found["metric"], dict) or not isinstance(found["metric"].get("name"), str):
    raise UserError(f"{path}: write metric: {{name: episode_return, goal: maximize}}.")
  if not isinstance(found["parameters"], dict):
    raise UserError(f"{path}: write parameters: {{NAME: {{values: [1, 2]}}}}.")
  cap = found.get("run_cap", 1)
  if isinstance(cap, bool) or not isinstance(cap, int) or not 1 <= cap <= MOST:
    raise UserError(f"{path}: run_cap is a number of points: write run_cap: 20, say.")
  if found["method"] in UNCAPPED and "run_cap" not in found:
    raise UserError(f"{path}: method {found['method']} never ends: write run_cap: 20, say.")
  found["command"], experiment, fixed = called(path, found["command"], parse)
  return Sweep(path, found, experiment, fixed)


def called(path: Path, command: Any, parse: Parse) -> tuple[list[str], str, tuple[str, ...]]:
  """The command of a file with its environment variables; its experiment and bindings.

  Raises:
    UserError: it is none that `parse` takes.
  """
  if not isinstance(command, list) or "train" not in command or command.count(MACRO) != 1:
    raise UserError(f"{path}: write {COMMAND}")
  # The words before `train` start the program for W&B's agents; here it is running.
  start = command.index("train")
  words = [w if w == MACRO else _expanded(path, str(w)) for w in command[start:]]
  try:
    experiment, fixed = parse([word for word in words if word != MACRO])
  except UserError as error:
    raise UserError(f"{path}: {error}") from None
  # Variables are expanded: `same` compares the command, and other values make another sweep.
  return [*command[:start], *words], experiment, tuple(fixed)


def _expanded(path: Path, word: str) -> str:
  """A word of the command with the environment variables that it names, as W&B's agents do it."""
  for name in VARIABLE.findall(word):
    if name not in os.environ:
      raise UserError(f"{path}: command: {word}: the environment has no variable {name}.")
  if other := re.search(r"\$\{[^}]*\}", VARIABLE.sub("", word)):
    raise UserError(
      f"{path}: command: {word}: selftune sweep knows {MACRO} and ${{envvar:NAME}}, in capital "
      f"letters, and not {other[0]}."
    )
  return VARIABLE.sub(lambda found: os.environ[found[1]], word)


def bindings(point: Mapping[str, Any]) -> list[str]:
  """A point as gin bindings, in the form of W&B's `${args_no_hyphens}`."""
  return [f"{name}={value}" for name, value in point.items()]


class Points:
  """The points of a sweep in the order in which they were asked for; kept in a file, if any."""

  def __init__(self, sweep: Sweep, path: Path | None = None):
    self._sweep, self._path = sweep, path
    self.asked: list[Point] = []
    if path is not None and path.exists():
      self.asked += jsonl.read(path)

  def further(self, outcomes: Sequence[Outcome] = ()) -> list[Point]:
    """All further points, or, of `bayes`, the next one; each counts once it is added.

    Args:
      outcomes: of the points so far, which `bayes` learns from.

    Raises:
      UserError: the sweep file says what W&B does not know, or the library is not there.
    """
    asked, done = self._sweep.asked, len(self.asked)
    count = MOST if self._sweep.count is None else self._sweep.count
    if self._sweep.bayes:
      # The seed is the number of the point: each draws anew, and the same again after a kill.
      return library.suggested(asked, outcomes, 1, seed=done) if done < count else []
    # The library begins with the first point at every call: those that are known are cut off.
    return library.suggested(asked, (), count)[done:]

  def add(self, points: Sequence[Point]) -> None:
    """Keeps points; the file is written whole or not at all."""
    self.asked += points
    if self._path is not None:
      # Not `jsonl.encode`, which keeps 7 digits: the library looks for the values that it gave.
      files.write(self._path, "".join(json.dumps(point) + "\n" for point in self.asked))

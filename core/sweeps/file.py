"""W&B sweep files, and the points that W&B's `sweeps` library asks for."""

import json
import random
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from .. import arguments, config, jsonl
from ..errors import UserError, did_you_mean

Point = dict[str, Any]  # name of a binding -> value: a number, or text as gin writes it

MACRO = "${args_no_hyphens}"
COMMAND = f"command: [selftune, train, EXPERIMENT, '{MACRO}']"
MOST = 10**6  # points of a grid
UNCAPPED = ("random", "bayes")  # methods that would go on forever


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
    """At most so many points."""
    return self.config.get("run_cap")


class Outcome(NamedTuple):
  """How a point ended."""

  point: Point
  status: str  # finished, diverged, failed; or pending, while it has not ended
  metric: float | None = None
  env_steps: int = 0
  seconds: float = 0.0


def read(name: str) -> Sweep:
  """Reads a sweep file.

  Args:
    name: a YAML file, or the name of a packaged one, such as `sweeps/catch_stac_discount`.

  Raises:
    UserError: it is no sweep, or its command is not `selftune train`.
  """
  path = _find(name)
  try:
    found = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
  except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
    raise UserError(f"cannot read {path}: {' '.join(str(error).split())}") from None
  needed = ("method", "parameters", "command")
  if not isinstance(found, dict) or not all(found.get(key) for key in needed):
    raise UserError(f"{path}: a sweep has method, parameters and {COMMAND}.")
  found.setdefault("metric", {"name": "episode_return", "goal": "maximize"})
  if not isinstance(found["metric"], dict) or not isinstance(found["metric"].get("name"), str):
    raise UserError(f"{path}: write metric: {{name: episode_return, goal: maximize}}.")
  if not isinstance(found["parameters"], dict):
    raise UserError(f"{path}: write parameters: {{NAME: {{values: [1, 2]}}}}.")
  if not isinstance(found.get("run_cap", 1), int):
    raise UserError(f"{path}: run_cap is a number of points: write run_cap: 20, say.")
  if found["method"] in UNCAPPED and "run_cap" not in found:
    raise UserError(f"{path}: method {found['method']} never ends: write run_cap: 20, say.")
  command = found["command"]
  if not isinstance(command, list) or "train" not in command or command.count(MACRO) != 1:
    raise UserError(f"{path}: write {COMMAND}")
  words = [str(word) for word in command[command.index("train") :] if word != MACRO]
  train = arguments.parse(words)
  given = {name: value for name, value in vars(train).items() if value}
  if others := given.keys() - {"command", "config", "bind", "bindings"}:
    raise UserError(
      f"{path}: selftune sweep takes an experiment and bindings of the command, and not "
      f"{', '.join(f'--{name}'.replace('_', '-') for name in sorted(others))}."
    )
  return Sweep(path, found, train.config, tuple(train.bind))


def bindings(point: Mapping[str, Any]) -> list[str]:
  """A point as gin bindings, in the form of W&B's `${args_no_hyphens}`."""
  return [f"{name}={value}" for name, value in point.items()]


class Points:
  """The points of a sweep in the order in which they were asked for; kept in a file, if any."""

  def __init__(self, sweep: Sweep, path: Path | None = None):
    self._sweep, self._path = sweep, path
    self.asked: list[Point] = []
    self._grid: list[Point] = []
    if path is not None and path.exists():
      self.asked += jsonl.read(path)

  def next(self, outcomes: Sequence[Outcome] = ()) -> Point | None:
    """A further point, or None if there is none; it counts once it is added.

    Args:
      outcomes: of the points so far, which `bayes` learns from.

    Raises:
      UserError: the sweep file says what W&B does not know, or the library is not there.
    """
    if self._sweep.count is not None and len(self.asked) >= self._sweep.count:
      return None
    if self._sweep.config["method"] == "grid":
      self._grid = self._grid or self._suggested([], MOST)
      return self._grid[len(self.asked)] if len(self.asked) < len(self._grid) else None
    learned_from = outcomes if self._sweep.config["method"] == "bayes" else ()
    return next(iter(self._suggested(learned_from, 1)), None)

  def _suggested(self, outcomes: Sequence[Outcome], n: int) -> list[Point]:
    """At most n further points, by the library."""
    library, metric = _library(), self._sweep.metric
    from jsonschema import ValidationError  # one of the library's own

    states = {"pending": "running", "diverged": "failed"}
    runs = []
    for outcome in outcomes:
      run = library.SweepRun(config={k: {"value": value} for k, value in outcome.point.items()})
      run.state = library.RunState(states.get(outcome.status, outcome.status))
      run.summary_metrics = {} if outcome.metric is None else {metric: outcome.metric}
      runs.append(run)
    # The library draws from these: so the same file gives the same points.
    random.seed(len(self.asked))
    np.random.seed(len(self.asked))
    asked = {key: self._sweep.config[key] for key in ("method", "metric", "parameters")}
    try:
      with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its Gaussian process, which fits what it can
        found = library.next_runs(asked, runs, validate=True, n=n)
    except (ValueError, ValidationError) as error:
      reason = str(error).strip().partition("\n")[0]
      raise UserError(f"{self._sweep.path}: {reason}") from error
    return [{k: _plain(e["value"]) for k, e in run.config.items()} for run in found if run]

  def add(self, point: Point) -> None:
    """Keeps a point; the file is written whole or not at all."""
    self.asked.append(point)
    if self._path is not None:
      new = self._path.with_suffix(".new")
      # Every digit: the library looks for what it has given.
      new.write_text("".join(json.dumps(point) + "\n" for point in self.asked), "utf-8")
      new.replace(self._path)


def _plain(value: Any) -> Any:
  """As Python has it, and not NumPy."""
  return np.asarray(value).item() if np.isscalar(value) else value


def _find(name: str) -> Path:
  for path in (Path(name), config.ROOT / name, config.ROOT / f"{name}.yaml"):
    if path.is_file():
      return path
  known = [f"sweeps/{path.stem}" for path in sorted(config.ROOT.glob("sweeps/*.yaml"))]
  raise UserError(f"no sweep '{name}'.{did_you_mean(name, known)} Packaged: {', '.join(known)}.")


def _library() -> Any:
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # of pydantic, about the library's own code
      import sweeps
  except ImportError as error:
    raise UserError(
      f"selftune sweep needs W&B's library 'sweeps' ({error}): pip install 'selftune[sweep]'"
    ) from None
  return sweeps

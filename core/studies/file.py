"""Study files: agents x environments x settings x seeds."""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..api.errors import UserError, did_you_mean
from ..api.ranges import Seed
from ..config.values import describe, fits
from ..sweeps import document
from ..sweeps.library import MOST, Point

KEYS = ("environments", "agents", "settings", "draw", "seeds", "bind", "score")
OF_AGENT = ("config", "bind", "settings")
SEED = "train.seed"
RANGE = "{min: 1e-4, max: 1e-2, log: true}"
LAST = 0.1  # the score is the mean return over this last part of training


class Cell(NamedTuple):
  """An agent in an environment."""

  agent: str
  environment: str
  experiment: str
  bindings: tuple[str, ...]
  settings: list[Point]  # H of them
  seeds: list[int]

  @property
  def points(self) -> list[Point]:
    """A point for each run, in order: the seeds of a setting lie side by side."""
    return [{**setting, SEED: seed} for setting in self.settings for seed in self.seeds]


class Study(NamedTuple):
  """What a study file says."""

  path: Path
  cells: list[Cell]
  last: float  # the score is the mean return over this last part of training


def read(name: str) -> Study:
  """Reads a study file.

  Args:
    name: a YAML file, or the name of a packaged one, such as `studies/mountain_car`.

  Raises:
    UserError: it is none; the message says where, and what to write.
  """
  path = document.find(name, "study")
  found = document.read(path)
  try:
    return _study(path, found)
  except UserError as error:
    raise UserError(f"{path}: {error}") from None


def _study(path: Path, found: Any) -> Study:
  if not isinstance(found, dict) or not found.get("agents") or not found.get("environments"):
    raise UserError("a study has agents: {NAME: CONFIG} and environments: {NAME: [BINDINGS]}.")
  _check_keys("a study", found, KEYS)
  # First comes what all agents share, then the cells of each agent.
  environments = {
    name: _bindings(f"environments: {name}", binds)
    for name, binds in _named("environments", found["environments"], "[BINDINGS]").items()
  }
  shared, seeds = _bindings("bind", found.get("bind")), _seeds(found.get("seeds", 1))
  agents = _named("agents", found["agents"], "CONFIG")
  draw = found.get("draw")
  if draw is not None and not (_is_count(draw) and isinstance(found.get("settings"), dict)):
    raise UserError("write draw: 20, say, and settings: {NAME: [VALUES]} to draw so many of.")
  # Refused before they are drawn, which would take minutes and fill the memory.
  if draw is not None and draw > MOST:
    raise UserError(f"draw: {draw:,} settings are more than {MOST:,}: write draw: 20, say.")
  cells = []
  for agent, said in agents.items():
    where = f"agents: {agent}"
    said = {"config": said} if isinstance(said, str) else said
    if not isinstance(said, dict) or not isinstance(said.get("config"), str):
      raise UserError(f"{where}: write {{config: experiments/NAME, bind: [BINDINGS]}}.")
    _check_keys(where, said, OF_AGENT)
    # An agent's own settings replace the study's, also where they are none: {}.
    holder, of = (said, f"{where}: settings") if "settings" in said else (found, "settings")
    settings = _settings(of, holder.get("settings"), draw)
    bound = _bindings(f"{where}: bind", said.get("bind"))
    # The last binding of a name counts: an agent's outdo its environment's, and those the study's.
    for environment, binds in environments.items():
      cells.append(
        Cell(agent, environment, said["config"], (*shared, *binds, *bound), settings, seeds)
      )
  runs = sum(len(cell.settings) * len(cell.seeds) for cell in cells)
  if runs > MOST:
    raise UserError(
      f"{runs:,} runs are more than {MOST:,}: give fewer settings, or write draw: 20."
    )
  return Study(path, cells, _last(found.get("score", {"last": LAST})))


def _named(where: str, found: Any, value: str) -> Mapping[str, Any]:
  """Returns a mapping, checked: its names can be those of folders.

  Raises:
    UserError: they cannot, or it is no mapping.
  """
  if not isinstance(found, dict):
    raise UserError(f"write {where}: {{NAME: {value}}}.")
  for name in found:
    # A name may be no text: YAML reads 1 as a number and true as a truth value.
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.+ -]*", name):
      raise UserError(f"{where}: {name!r} is no name: write letters, digits, and _ . + - within.")
  return found


def _check_keys(where: str, found: Mapping[Any, Any], known: Sequence[str]) -> None:
  for key in found:
    if key not in known:
      near = did_you_mean(str(key), known)
      raise UserError(f"{where} has no '{key}'.{near} It has: {', '.join(known)}.")


def _bindings(where: str, found: Any) -> tuple[str, ...]:
  found = [found] if isinstance(found, str) else found or []
  if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
    raise UserError(f"{where}: write a list of bindings, as [train.total_env_steps = 50_000].")
  return tuple(found)


def _seeds(found: Any) -> list[int]:
  seeds = list(range(found)) if _is_count(found) and found <= MOST else found
  whole = isinstance(seeds, list) and all(fits(seed, Seed) for seed in seeds)
  if not whole or not seeds or len(set(seeds)) < len(seeds):
    raise UserError(
      f"seeds: {found!r}: write how many, as 5, or which, as [0, 1, 2]; a seed is {describe(Seed)}."
    )
  return seeds


def _is_count(value: Any) -> bool:
  return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _last(found: Any) -> float:
  last = found.get("last") if isinstance(found, dict) and len(found) == 1 else None
  if isinstance(last, bool) or not isinstance(last, int | float) or not 0 < last <= 1:
    raise UserError(f"score: {found!r}: write {{last: 0.1}}, a part of training above 0, up to 1.")
  return float(last)


def _settings(where: str, found: Any, draw: int | None) -> list[Point]:
  """Returns the settings: those of a list, all combinations of lists, or some that are drawn.

  Raises:
    UserError: they are written in another way, there are too many, or one is there twice.
  """
  if found is None or found == {}:
    return [{}]
  if isinstance(found, list):
    if not found or not all(isinstance(setting, dict) and setting for setting in found):
      raise UserError(f"{where}: a list is of settings, as [{{gamma: 0.9}}, {{gamma: 0.99}}].")
    # Later code compares settings name by name, to find what is constant.
    if len({frozenset(setting) for setting in found}) > 1:
      raise UserError(f"{where}: each setting of a list has the same names.")
    for name, value in itertools.chain.from_iterable(setting.items() for setting in found):
      _check(where, name, value)
    return _distinct(where, found)
  if not isinstance(found, dict):
    raise UserError(f"{where}: write {{NAME: [VALUES]}}.")
  for name, values in found.items():
    if not isinstance(values, dict):
      if not isinstance(values, list) or not values:
        raise UserError(f"{where}: {name}: write a list of values, or draw: N and {RANGE}.")
      for value in values:
        _check(where, name, value)
    elif draw is None:
      raise UserError(f"{where}: {name}: a range is drawn from: write draw: 20, say, or a list.")
    else:
      _check_range(where, name, values)
  if draw is not None:
    return _drawn(found, draw)
  # Combinations are counted before they are made: those of a few long lists would fill the memory.
  if (size := math.prod(map(len, found.values()))) > MOST:
    raise UserError(f"{where}: {size:,} combinations: give fewer values, or write draw: 20, say.")
  names, values = list(found), itertools.product(*found.values())
  return _distinct(where, [dict(zip(names, row, strict=True)) for row in values])


def _check(where: str, name: Any, value: Any) -> None:
  if not isinstance(name, str):
    raise UserError(f"{where}: {name!r}: the name of a binding is text, as value.cost is.")
  if name == SEED:
    raise UserError(f"{where}: {SEED} is no setting: write seeds: [0, 1, 2].")
  plain = value is None or isinstance(value, bool | int | float | str)
  if not plain or (isinstance(value, float) and not math.isfinite(value)):
    raise UserError(f"{where}: {name}: {value!r}: write a finite number, or text as gin has it.")


def _check_range(where: str, name: Any, found: Mapping[str, Any]) -> None:
  # The value 0 is always allowed: only the name is checked here.
  _check(where, name, 0)
  low, high, log = found.get("min"), found.get("max"), found.get("log", False)
  numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in (low, high))
  if set(found) - {"min", "max", "log"} or not numbers or not isinstance(log, bool):
    raise UserError(f"{where}: {name}: a range is {RANGE}.")
  # Bounds within 1e300 have a difference that is a finite float.
  if not -1e300 < low < high < 1e300 or (log and low <= 0):  # type: ignore[operator]
    least = "; a log range begins above 0" if log else ""
    raise UserError(f"{where}: {name}: min {low} is not below max {high}{least}.")


def _drawn(found: Mapping[str, Any], draw: int) -> list[Point]:
  """Draws settings, the same for equal arguments; numbers of few digits."""
  # The seed is fixed: agents with equal settings are given equal draws, in every start.
  random = np.random.default_rng(0)

  def one(values: Any) -> Any:
    if isinstance(values, list):
      return values[random.integers(len(values))]
    low, high = values["min"], values["max"]
    if values.get("log"):
      value = math.exp(random.uniform(math.log(low), math.log(high)))
    else:
      value = random.uniform(low, high)
    # Rounded, a number next to an end may lie beyond it.
    return min(max(float(f"{value:.6g}"), low), high)

  # Values of a few lists may be drawn twice, and a setting is tried once. The tries are limited:
  # lists may have fewer combinations than are asked for.
  distinct: dict[tuple[Any, ...], Point] = {}
  for _ in range(20 * draw):
    if len(distinct) == draw:
      break
    point = {name: one(values) for name, values in found.items()}
    distinct[tuple(point.items())] = point
  return list(distinct.values())


def _distinct(where: str, settings: list[Point]) -> list[Point]:
  seen: list[tuple[Any, ...]] = [tuple(sorted(setting.items())) for setting in settings]
  # 1 and 1.0 count as equal: they are one setting, written in two ways.
  if len(set(seen)) < len(seen):
    twice = next(dict(one) for i, one in enumerate(seen) if one in seen[:i])
    raise UserError(f"{where}: {twice} is there twice.")
  return settings

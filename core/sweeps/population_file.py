"""Sweep files with a population: members that train side by side and take over from each other."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .. import config
from ..api.errors import UserError, plugin_mistakes, shortened
from ..api.registry import name_of
from ..experiment import Population
from ..record.lineage import Settings
from ..runs import settings
from ..runs.population import Rules, rules_of
from . import document, file
from .file import Parse

# The first four are W&B's own, and mean nothing to a population.
KEYS = ("program", "project", "name", "description", "population", "parameters", "command")
# Messages tell the user to write these.
SECTION = "population: {members: 4, every_env_steps: 50_000, exploit: '@truncation()', "
SECTION += "explore: '@perturb()'}"
PARAMETER = "{min: 1e-4, max: 1e-2}, or {values: [...]}, one for each member"


@dataclasses.dataclass(frozen=True)
class Crowd:
  """A population as its file says it.

  Attributes:
    path: the file.
    says: the parts of the file that tell this population from another one in the same folder.
    experiment: of every member.
    bindings: the same for every member.
    fields: name in the file -> 'component.field' that it sets: itself, or those of a macro.
    rules: of the exchanges; their settings go by the first of these fields.
    total_env_steps: of each member.
  """

  path: Path
  says: Mapping[str, Any]
  experiment: str
  bindings: tuple[str, ...]
  fields: Mapping[str, tuple[str, ...]]
  rules: Rules
  total_env_steps: int

  @property
  def varied(self) -> tuple[str, ...]:
    """Every 'component.field' that may change on the way."""
    return tuple(field for fields in self.fields.values() for field in fields)

  def of_member(self, member: int, settings: Settings) -> tuple[str, ...]:
    """All bindings of a member, with its settings."""
    # A macro is bound by its own name, and so sets all of its fields, not the first alone.
    own = (f"{name}={settings[fields[0]][member]!r}" for name, fields in self.fields.items())
    return (*self.bindings, *own, f"train.seed={self.rules.seed + member}")


class _Parameter(NamedTuple):
  """A number that is varied."""

  values: list[float]  # one for each member; placeholders where first values are drawn
  bounds: tuple[float, float] | None
  is_given: bool


def read(name: str, parse: Parse) -> Crowd | None:
  """Reads the file of a population, and loads the configuration of each member.

  Args:
    name: a YAML file, or the name of a packaged one.
    parse: reads the arguments of `selftune train`: the command line knows them.

  Returns:
    What it says; None where the file has no `population`: it is a sweep of independent points.

  Raises:
    UserError: it is no population, its command is none that `parse` takes, or its experiment or
      plugins cannot be loaded.
  """
  path = document.find(name, "sweep")
  found = document.read(path)
  if not isinstance(found, dict) or "population" not in found:
    return None
  try:
    return _read(path, found, parse)
  except UserError as error:
    # An error of `file` names the path already.
    said = str(error).removeprefix(f"{path}: ")
    raise UserError(f"{path}: {shortened(said)}") from error


def _read(path: Path, found: Mapping[str, Any], parse: Parse) -> Crowd:
  if unknown := [key for key in found if key not in KEYS]:
    raise UserError(f"a population has no {unknown[0]}; it has {', '.join(KEYS)}.")
  section, parameters = found["population"], found.get("parameters")
  if not isinstance(section, dict) or type(members := section.get("members")) is not int:
    raise UserError(f"write {SECTION}")
  if {"bounds", "first"} & section.keys():
    raise UserError(
      "population: bounds, and first values, are those of parameters: leave them out."
    )
  if members < 2:
    raise UserError(f"population: members is {members}; it takes two or more.")
  if not isinstance(parameters, dict) or not parameters:
    raise UserError(f"write parameters: {{NAME: {PARAMETER}}}.")
  command, experiment, bindings = file.called(path, found.get("command"), parse)
  root = config.load(experiment, bindings).root
  if root.runs is not None:
    raise UserError(
      "train.runtime is @runs(), whose runs are a population on the device: bind runs.population, "
      "or take another runtime."
    )
  if "jsonl" not in map(name_of, root.writers):
    raise UserError("scores are read from logs: put @jsonl() among train.writers.")
  # Of each parameter these are its values and bounds, and the fields that it sets.
  read = {name: _parameter(name, spec, members) for name, spec in parameters.items()}
  fields = {name: _fields(experiment, bindings, name, it) for name, it in read.items()}
  first = {fields[name][0]: it.values for name, it in read.items()}
  bounds = {fields[name][0]: it.bounds for name, it in read.items() if it.bounds}
  # Environments on the host may be varied as well: every segment makes them anew.
  plugins = (root.agent, root.env)
  with plugin_mistakes():
    settings.check(plugins, first, members)
    population = _population(section, bounds, _are_given(read))
    rules = rules_of(population, dict(settings.numbers(plugins)), first, root.seed)
  says = {"population": section, "parameters": parameters, "command": command}
  crowd = Crowd(path, says, experiment, bindings, fields, rules, root.total_env_steps)
  # Members are loaded as training will: a mistake shows before a file is written.
  for member in range(members):
    config.load(experiment, crowd.of_member(member, rules.first))
  return crowd


def _parameter(name: str, spec: Any, members: int) -> _Parameter:
  keys = set(spec) if isinstance(spec, dict) else set()
  if keys not in ({"min", "max"}, {"values"}, {"min", "max", "values"}):
    raise UserError(f"{name}: {spec!r} is no parameter of a population: write {PARAMETER}.")
  ends = [spec["min"], spec["max"]] if "min" in keys else []
  # Checks want values in any case: until some are drawn, the greatest stands for each.
  values = spec["values"] if "values" in keys else members * ends[1:]
  if not isinstance(values, list) or len(values) != members:
    raise UserError(f"{name}: write values: [...], one for each of the {members} members.")
  for value in (*values, *ends):
    if isinstance(value, bool) or not isinstance(value, int | float):
      raise UserError(f"{name}: {value!r} is no number.")
  bounds = (float(ends[0]), float(ends[1])) if ends else None
  return _Parameter([float(value) for value in values], bounds, "values" in keys)


def _are_given(parameters: Mapping[str, _Parameter]) -> bool:
  """Whether the first values are those of the file; they are drawn where it has none.

  Raises:
    UserError: it has values of some parameters alone.
  """
  given = [name for name, parameter in parameters.items() if parameter.is_given]
  if given and len(given) < len(parameters):
    raise UserError(f"{given[0]} has values, and others have none: give all of them some, or none.")
  return bool(given)


def _fields(
  experiment: str, bindings: tuple[str, ...], name: str, parameter: _Parameter
) -> tuple[str, ...]:
  """What a name in the file sets: itself or, of a macro, the fields that hold it.

  Raises:
    UserError: the macro is part of no number.
  """
  if "." in name:
    return (name,)
  # A flat configuration has no macros: the fields of one are those that change when it does.
  low, high = parameter.bounds or (min(parameter.values), max(parameter.values))
  # Both of them values that it may have, if the file has two.
  differing = (low, high) if low < high else (high, high / 2 if high else 1.0)
  flats = [config.load(experiment, (*bindings, f"{name}={x!r}")).flat for x in differing]
  found = [key.split("/")[-1] for key, set_there in flats[0].items() if set_there != flats[1][key]]
  if not found:
    raise UserError(f"{name} is no number of the experiment.")
  return tuple(dict.fromkeys(found))


def _population(
  section: Mapping[str, Any], bounds: Mapping[str, tuple[float, float]], is_given: bool
) -> Population:
  """The population, with its plugins, that a section of the file says."""
  own = {key: value for key, value in section.items() if key != "members"}
  # A key with a dot is a setting of one of its plugins, such as perturb.resample.
  texts = [f"{k if '.' in k else f'population.{k}'} = {value}" for k, value in own.items()]
  first = "given" if is_given else "drawn"
  more = (f"population.bounds = {bounds!r}", f"population.first = {first!r}")
  return config.load(None, (*texts, *more), root="population").root

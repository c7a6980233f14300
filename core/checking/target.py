"""What there is to check: of an experiment all that its configuration names, or one plugin."""

import dataclasses
import functools
import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .. import config
from ..api import checks, registry
from ..api.errors import UserError, did_you_mean
from ..api.types import EnvSpec
from ..config import discovery
from ..experiment import Train
from . import agents, environments, inputs, networks, others, populations, steps, terms
from .rows import Check, NotChecked

# Where a plugin is put that is checked alone: packaged configurations, with a macro a kind. Where
# there are several, the first that holds the plugin already, or else the first.
ALONE = {
  "metaopt": ("checks/agent", "checks/online"),  # with a loss to minimise, and without one
  "tuner": ("checks/stepped",),
  "exploit": ("checks/population",),
  "explore": ("checks/population",),
}
OTHERWISE = ("checks/tuned",)
NO_AGENT = ("env", "writer", "exploit", "explore")  # kinds that take no part in an update


class Target(NamedTuple):
  """What is checked."""

  name: str
  checks: list[Check]


class Placed(NamedTuple):
  """A plugin, and where in the configuration it is."""

  kind: str
  plugin: Any
  path: str


def find(target: str, bindings: Sequence[str]) -> Target:
  """Finds what is to be checked.

  Args:
    target: an experiment, a plugin by name, or a file of Python whose plugins are meant.
    bindings: further gin bindings.

  Raises:
    UserError: there is no such thing, or a mistake in its configuration.
  """
  discovery.load_all()
  if target.endswith(".py"):
    found = [c for name in imported(Path(target)) for c in _plugin(name, bindings)]
    return Target(target, found)
  if registry.kind_of(target) is not None:
    return Target(target, _plugin(target, bindings))
  # What is no plugin is an experiment; or a plugin's name that was mistyped.
  known = [name for of_kind in registry.plugins().values() for name in of_kind]
  try:
    experiment: Train = config.load(target, bindings).root
  except UserError as error:
    if (near := did_you_mean(target, known)) and "no gin file" in str(error):
      raise UserError(f"there is no experiment and no plugin '{target}'.{near}") from error
    raise
  return Target(target, list(_experiment(experiment)))


def imported(path: Path) -> list[str]:
  """Imports a file of Python; returns the names of the plugins that it registers.

  Raises:
    UserError: it cannot be imported, or registers none.
  """
  if not path.is_file():
    raise UserError(f"there is no file {path}.")
  sys.path.append(str(path.resolve().parent))  # last: it takes no library's place
  try:
    with registry.foreign_code():
      importlib.import_module(path.stem)
  except Exception as error:  # whatever a module may raise
    why = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    raise UserError(f"cannot import {path}: {why}") from error
  # A module of this name may have been imported already, or stand before it on the path.
  module = sys.modules[path.stem]
  if Path(str(module.__file__)).resolve() != path.resolve():
    raise UserError(f"{path}: Python knows another module '{path.stem}', {module.__file__}: rename")
  found = [
    name
    for of_kind in registry.plugins().values()
    for name, cls in of_kind.items()
    if cls.__module__ == path.stem
  ]
  if not found:
    raise UserError(f"{path} registers no plugin: decorate a dataclass, @register(kind, name).")
  return found


def _experiment(experiment: Train) -> Iterator[Check]:
  """Yields the checks of all that an experiment names, and of its agent as a whole."""
  placed = list(_placed(experiment, ""))
  env = next(x for x in placed if x.kind == "env")
  labels = _labels(placed)

  @functools.cache
  def spec() -> EnvSpec:
    try:
      return environments.spec_of(experiment.env)
    # The rows of the environment say what is wrong; whatever needs its spec is merely not reached.
    except Exception as error:
      raise NotChecked(f"not reached: {labels[env.path]} has no spec") from error

  # A meta-optimiser has no rows of its own: it is checked as the update of the whole agent.
  for kind in registry.KINDS:
    for it in placed:
      if it.kind == kind and kind != "metaopt":
        heads = experiment.agent.heads
        yield from _of_kind(it, labels[it.path], lambda: (spec(),), heads, alone=False)
  yield from _agent(experiment, spec, labels, placed)


def _plugin(name: str, bindings: Sequence[str]) -> list[Check]:
  """Lists the checks of one plugin, and of the small agent that it is put into."""
  kind = registry.kind_of(name)
  assert kind is not None
  if kind == "paper":
    cls = registry.configurables()[name]
    return list(others.paper(checks.who(cls), cls()))
  experiment: Train = _small(kind, name, bindings)
  placed = list(_placed(experiment, ""))
  (it, *_) = [x for x in placed if registry.name_of(x.plugin) == name]
  labels = _labels(placed)
  found = list(_of_kind(it, labels[it.path], lambda: inputs.SPECS, 2, alone=True))
  if kind in NO_AGENT:
    return found

  @functools.cache
  def spec() -> EnvSpec:
    return _served(kind, it.plugin)

  whole = list(_agent(experiment, spec, labels, [it]))
  own = [c for c in whole if c.part.startswith(f"metagradient of {name}.")]
  other = [c for c in whole if not c.part.startswith("metagradient")]
  # The metagradients of its own tunables; where it has none, those of others go through it.
  return found + other + (own or [c for c in whole if c.part.startswith("metagradient")])


def _small(kind: str, name: str, bindings: Sequence[str]) -> Train:
  """Loads the small configuration of a kind with this plugin in its place."""
  packaged = ALONE.get(kind, OTHERWISE)
  holds = lambda file: any(
    registry.name_of(x.plugin) == name for x in _placed(config.load(file).root, "")
  )
  there = next(filter(holds, packaged), None)
  # Where it stands already it is left: a loss term may appear only once.
  own = [] if there else [f"{kind} = @{name}()"]
  if kind == "metaopt" and "tune" in config.fields(name):
    own.append(f"{name}.tune = ('*',)")
  return config.load(there or packaged[0], (*own, *bindings)).root


def _served(kind: str, plugin: Any) -> EnvSpec:
  """Returns the first of the made-up specs that a plugin serves."""
  # The first check of each kind is that of shapes: a plugin that passes it serves the spec.
  for spec in inputs.SPECS:
    trial = _of_kind(
      Placed(kind, plugin, ""), checks.who(plugin), lambda spec=spec: (spec,), 2, True
    )
    try:
      # A meta-optimiser has no checks of its own, and is not asked what it serves.
      if (first := next(trial, None)) is not None:
        first.run()
      return spec
    except Exception:  # the plugin's own row says what it was
      continue
  raise NotChecked("not reached: the plugin serves nothing")


def _of_kind(
  it: Placed, label: str, specs: terms.Specs, heads: int, alone: bool
) -> Iterator[Check]:
  """Yields the checks of one plugin, by its kind."""
  match it.kind:
    case "env":
      return environments.environment(label, it.plugin)
    case "network":
      return networks.network(label, it.plugin, specs, heads)
    case "corrector" | "loss":
      return terms.transitions(label, it.plugin, specs, it.kind == "corrector")
    case "optimizer":
      return steps.optimizer(label, it.plugin)
    case "tuner":
      return steps.tuner(label, it.plugin)
    case "writer":
      return others.writer(label, it.plugin, alone)
    case "exploit":
      return populations.exploit(label, it.plugin)
    case "explore":
      return populations.explore(label, it.plugin)
    case _:
      return iter(())


def _agent(
  experiment: Train, spec: Any, labels: Mapping[str, str], placed: Sequence[Placed]
) -> Iterator[Check]:
  """Yields the checks of an agent's update, and of its metagradient."""

  @functools.cache
  def subject() -> agents.Subject:
    # As configured, but no larger than need be: small batches are compiled and computed soon.
    small = lambda most, least: max(1, min(most, least))
    return agents.Subject(
      agent=experiment.agent,
      spec=spec(),
      t=small(experiment.unroll_length, inputs.T),
      b=small(experiment.num_envs, inputs.B),
      most=experiment.num_envs,
      total_updates=experiment.total_updates,
    )

  needs = tuple(labels[x.path] for x in placed if x.kind not in NO_AGENT)
  part = checks.who(experiment.agent.metaopt)
  yield from agents.update(part, subject, needs)
  yield from agents.metagradient(experiment.agent, subject, (part, *needs))


def _placed(value: Any, path: str) -> Iterator[Placed]:
  """Walks a configuration; yields its plugins, each once, in the order of its fields."""
  # A list, as plugins with a dict among their fields are not hashable.
  seen: list[tuple[str, Any]] = []

  def walk(value: Any, path: str) -> Iterator[Placed]:
    if isinstance(value, (tuple, list)):
      for item in value:
        yield from walk(item, path)
    elif isinstance(value, Mapping):
      for item in value.values():
        yield from walk(item, path)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
      try:
        name = registry.name_of(value)
      except KeyError:
        return
      kind = registry.kind_of(name)
      if kind is not None:
        if (name, value) in seen:
          return
        seen.append((name, value))
        yield Placed(kind, value, f"{path}/{name}")
      for field in dataclasses.fields(value):
        yield from walk(getattr(value, field.name), f"{name}.{field.name}")

  yield from walk(value, path)


def _labels(placed: Sequence[Placed]) -> dict[str, str]:
  """Names plugins for the table, by path: two of one name also by where they are."""
  names = [checks.who(x.plugin) for x in placed]
  return {
    x.path: name if names.count(name) == 1 else f"{name}, {x.path.partition('/')[0]}"
    for x, name in zip(placed, names, strict=True)
  }

"""What independent runs are: one agent, and for each run a seed and settings.

A setting is any number of any plugin, by name; it is configured in one way and varied in many.
"""

import dataclasses
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from ..api import registry
from ..api.contracts import FunctionalEnvironment
from ..api.errors import did_you_mean
from ..api.online import RunState
from ..api.types import Array
from ..config.values import annotations, describe, fits
from ..experiment import Agent, IndependentRuns, Train
from .iteration import going
from .population import Rules, rules_of
from .standing import Settings

T = TypeVar("T")


class Members(NamedTuple):
  """R independent runs."""

  agent: Agent  # of every run, but for its settings
  seeds: Sequence[int]  # R; runs of equal seeds and settings are equal
  settings: Mapping[str, Sequence[float]]  # 'component.field' -> R numbers
  num_envs: int = 1  # B, of each run
  unroll_length: int = 1  # T
  total_updates: int = 1  # after so many the learning rate has reached its end
  max_episodes: int | None = None  # a run that has finished so many is frozen; None: never
  max_env_steps: int | None = None  # one that has made so many is, too
  lag: int = 0  # how many updates old the parameters are that act

  @property
  def size(self) -> int:
    """R, the number of runs."""
    return len(self.seeds)

  def active(self, state: RunState) -> Array:
    """Says whether runs still go, neither finished nor diverged: bool [], or [R'] of [R', ...]."""
    return going(state, self.max_episodes, self.max_env_steps)


def with_settings(plugins: T, values: Mapping[str, Any]) -> T:
  """Returns the plugins, and those they hold, with 'component.field' replaced by its value.

  Args:
    plugins: a registered dataclass, or a tuple of such.
    values: numbers, or traced arrays [].
  """
  if isinstance(plugins, tuple):
    new = tuple(with_settings(plugin, values) for plugin in plugins)
    return plugins if all(map(operator.is_, new, plugins)) else new  # type: ignore[return-value]
  if not _is_component(plugins):
    return plugins
  name = registry.name_of(plugins)
  fields = {f.name: getattr(plugins, f.name) for f in dataclasses.fields(plugins)}  # type: ignore
  # A field is a setting itself, or may hold plugins that have some.
  new = {f: values.get(f"{name}.{f}", with_settings(value, values)) for f, value in fields.items()}
  # By identity: of traced values nobody can tell whether they are equal.
  changed = {f: value for f, value in new.items() if value is not fields[f]}
  if not changed:
    return plugins
  try:
    return dataclasses.replace(plugins, **changed)  # type: ignore
  except jax.errors.ConcretizationTypeError:
    # It compares its fields when it is made, which it cannot while they are traced; `check_each`
    # has had it look at the values that runs begin with.
    made = object.__new__(type(plugins))
    for field, value in new.items():
      object.__setattr__(made, field, value)  # they are frozen
    return made


def rows_of(settings: Mapping[str, Sequence[float]]) -> dict[str, np.ndarray]:
  """Returns settings as a program takes them, float32 [R] each."""
  return {name: np.asarray(values, np.float32) for name, values in settings.items()}


def check(plugins: Any, settings: Mapping[str, Sequence[float]], runs: int) -> None:
  """Raises ValueError unless every setting is of a number of a plugin that is there, R values."""
  held: dict[str, set[float]] = {}
  for name, _, value in _held(plugins):
    held.setdefault(name, set()).add(value)
  known = dict(numbers(plugins))
  for name, values in settings.items():
    # A setting counts in all scopes, and where these differ it would change what is meant to stay.
    if len(own := held.get(name, ())) > 1:
      raise ValueError(
        f"setting '{name}' is of plugins that differ, as gin's scopes make them: "
        f"{' and '.join(map(str, sorted(own)))}. Bind it for each of them, one run at a time."
      )
    if name not in known:
      raise ValueError(
        f"setting '{name}' is no number of this agent or environment."
        f"{did_you_mean(name, known)} There are: {', '.join(sorted(known))}."
      )
    if len(values) != runs:
      raise ValueError(f"setting '{name}' has {len(values)} values for {runs} runs.")
    for value in values:
      if not fits(float(value), known[name]):
        raise ValueError(f"setting '{name}' takes {describe(known[name])}, not {value!r}.")


def check_each(plugins: Any, settings: Mapping[str, Sequence[float]]) -> None:
  """Makes the plugins with the settings of each run, so that they refuse what they cannot take."""
  for row in dict.fromkeys(zip(*settings.values(), strict=True)):
    with_settings(plugins, dict(zip(settings, map(float, row), strict=True)))


def numbers(plugins: Any) -> Iterator[tuple[str, Any]]:
  """Yields 'component.field' of every number that can be a setting, and its annotation."""
  return ((name, annotation) for name, annotation, _ in _held(plugins))


def _held(plugins: Any) -> Iterator[tuple[str, Any, float]]:
  """Yields what `numbers` does, with the value that each instance of a component has."""
  if isinstance(plugins, tuple):
    for plugin in plugins:
      yield from _held(plugin)
  elif _is_component(plugins):
    hints = annotations(type(plugins))
    for f in dataclasses.fields(plugins):
      value = getattr(plugins, f.name)
      # Settings are float32 to the program: fields that 0.5 does not fit, such as counts, are none.
      if type(value) in (int, float) and fits(0.5, hints[f.name]):
        yield f"{registry.name_of(plugins)}.{f.name}", hints[f.name], value
      else:
        yield from _held(value)


def laid_out(
  experiment: Train, runtime: IndependentRuns
) -> tuple[list[int], Settings, Rules | None]:
  """Lays runs out: their seeds, the settings they begin with, and how a population varies these.

  Raises:
    ValueError: a setting is of nothing that is there, or is no value of it.
  """
  seeds, settings = runtime.grid(experiment.seed)
  # Before the rules: these rely on settings that are there and fit.
  check(varied(experiment), settings, len(seeds))
  if runtime.population is None:
    return seeds, settings, None
  known = dict(numbers(varied(experiment)))
  rules = rules_of(runtime.population, known, settings, experiment.seed)
  return seeds, rules.first, rules


def varied(experiment: Train) -> tuple[Any, ...]:
  """Returns the plugins whose numbers can be settings: the environment where it is functional."""
  functional = isinstance(experiment.env, FunctionalEnvironment)
  return (experiment.agent, experiment.env) if functional else (experiment.agent,)


def _is_component(x: Any) -> bool:
  return type(x) in registry.configurables().values()

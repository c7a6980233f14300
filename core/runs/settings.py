"""Settings of a run by name: any number of any plugin, configured in one way and varied in many."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from .. import registry
from ..errors import did_you_mean

T = TypeVar("T")


def bind(plugins: T, values: Mapping[str, Any]) -> T:
  """The plugins, and those they hold, with 'component.field' replaced by its value.

  Args:
    plugins: a registered dataclass, or a tuple of such.
    values: numbers or traced arrays.
  """
  if isinstance(plugins, tuple):
    return tuple(bind(plugin, values) for plugin in plugins)  # type: ignore[return-value]
  if not _is_component(plugins):
    return plugins
  name = registry.name_of(plugins)
  fields = {f.name: getattr(plugins, f.name) for f in dataclasses.fields(plugins)}  # type: ignore
  new = {f: values.get(f"{name}.{f}", bind(value, values)) for f, value in fields.items()}
  changed = {f: value for f, value in new.items() if value is not fields[f]}
  return dataclasses.replace(plugins, **changed) if changed else plugins  # type: ignore


def check(plugins: Any, settings: Mapping[str, Sequence[float]], runs: int) -> None:
  """Raises ValueError unless every setting is of a number of a plugin that is there, R values."""
  known = set(names(plugins))
  for name, values in settings.items():
    if name not in known:
      raise ValueError(
        f"setting '{name}' is no number of this agent or environment."
        f"{did_you_mean(name, known)} There are: {', '.join(sorted(known))}."
      )
    if len(values) != runs:
      raise ValueError(f"setting '{name}' has {len(values)} values for {runs} runs.")


def names(plugins: Any) -> Iterator[str]:
  """'component.field' of every number that can be a setting."""
  if isinstance(plugins, tuple):
    for plugin in plugins:
      yield from names(plugin)
  elif _is_component(plugins):
    for f in dataclasses.fields(plugins):
      value = getattr(plugins, f.name)
      if type(value) is float:
        yield f"{registry.name_of(plugins)}.{f.name}"
      else:
        yield from names(value)


def _is_component(x: Any) -> bool:
  return type(x) in registry.configurables().values()

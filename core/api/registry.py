"""The registry of plugins: one decorator, and what is registered.

`core.config.discovery` fills it.
"""

import contextlib
import dataclasses
import importlib
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import gin
from gin import config as gin_config

KINDS = {  # kind of plugin -> its contract in core.api, which is read when it is asked for
  "env": "EnvPlugin",
  "network": "NetworkPlugin",
  "corrector": "Corrector",
  "loss": "LossTerm",
  "optimizer": "Optimizer",
  "metaopt": "MetaOptimizer",
  "tuner": "Tuner",
  "exploit": "Exploit",
  "explore": "Explore",
  "writer": "WriterPlugin",
  "paper": "Paper",
}

T = TypeVar("T")

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_TAKEN_BY_GIN = ("macro", "constant", "singleton")

_classes: dict[str, type] = {}  # everything that gin may build, by name
_kinds: dict[str, str] = {}  # kind by name; core's own dataclasses have none
_unavailable: dict[str, str] = {}


def register(kind: str, name: str) -> Callable[[type[T]], type[T]]:
  """Decorator: registers a documented frozen dataclass as plugin `name` of `kind`, and with gin.

  The class is returned unchanged: Python calls never see gin. A class that is defined again, as a
  cell of a notebook does that is run twice, takes the place of the first.

  Raises:
    ValueError: unknown kind; a name that is taken or not snake_case.
    TypeError: not a frozen dataclass with a docstring.
  """
  if kind not in KINDS:
    raise ValueError(f"'{kind}' is no kind of plugin. Kinds: {', '.join(KINDS)}.")

  def decorate(cls: type[T]) -> type[T]:
    _add(name, cls, module=kind)
    _kinds[name] = kind
    return cls

  return decorate


def configurable(name: str) -> Callable[[type[T]], type[T]]:
  """Decorator: registers a frozen dataclass that gin binds but nobody plugs in, such as train."""
  return lambda cls: _add(name, cls, module="selftune")


def plugins() -> dict[str, dict[str, type]]:
  """Returns the registered classes by kind and name, both in order."""
  return {kind: {n: _classes[n] for n in sorted(_kinds) if _kinds[n] == kind} for kind in KINDS}


def configurables() -> dict[str, type]:
  """Returns every class that gin may build, plugins and core's own, by name."""
  return dict(_classes)


def kind_of(name: str) -> str | None:
  """Returns the kind of a registered name; None for core's own dataclasses."""
  return _kinds.get(name)


def name_of(plugin: Any) -> str:
  """Returns the name under which an instance's class (or a class) is registered.

  Raises:
    KeyError: it is not registered.
  """
  cls = plugin if isinstance(plugin, type) else type(plugin)
  # By identity: a subclass of a registered class is not registered by that.
  for name, registered in _classes.items():
    if registered is cls:
      return name
  raise KeyError(f"{cls.__qualname__} is not registered. Decorate it: @register(kind, name).")


def unavailable() -> dict[str, str]:
  """Says why modules of plugins could not be imported, by module (entry points: with name)."""
  return dict(_unavailable)


def contract(kind: str) -> Any:
  """Returns the contract of a kind of plugin, a Protocol."""
  return getattr(importlib.import_module("..api", __package__), KINDS[kind])


def kind_of_contract(annotation: Any) -> str | None:
  """Returns the kind of plugin whose contract an annotation is; None if it is none."""
  return next((kind for kind in KINDS if contract(kind) is annotation), None)


def lost(label: str, module: str, why: str) -> None:
  """Takes note that a module of plugins could not be imported; what it had registered goes."""
  # What a module registered before it failed would be listed, and built, half defined.
  _unavailable[label] = why
  for name in [n for n, cls in _classes.items() if cls.__module__ == module]:
    del _classes[name]
    _kinds.pop(name, None)


@contextlib.contextmanager
def foreign_code() -> Iterator[None]:
  """Contains imports of plugins within it: they print to stderr, and cannot end the program.

  A command's stdout holds what was asked for, JSON perhaps, and libraries greet whoever imports
  them.

  Raises:
    ImportError: in place of what `except Exception` would let through, SystemExit above all; a
      KeyboardInterrupt is the user's and goes on.
  """
  try:
    with contextlib.redirect_stdout(sys.stderr):
      yield
  except (Exception, KeyboardInterrupt):
    raise
  except BaseException as error:
    raise ImportError(f"it raises {error!r}") from error


def _add(name: str, cls: type[T], module: str) -> type[T]:
  if not _NAME.fullmatch(name) or name in _TAKEN_BY_GIN:
    raise ValueError(f"'{name}' cannot be a plugin's name: use snake_case, and none of gin's own.")
  other = _classes.get(name)
  again = other is not None and _kinds.get(name) == module and _place(other) == _place(cls)
  if other is not None and not again:
    raise ValueError(
      f"the name '{name}' is taken by {other.__module__}.{other.__qualname__}; "
      f"choose another for {cls.__module__}.{cls.__qualname__}."
    )
  if cls in _classes.values():
    raise ValueError(f"{cls.__qualname__} is registered already, as '{name_of(cls)}'.")
  if not _is_frozen_dataclass(cls):
    raise TypeError(f"{cls.__qualname__} must be a @dataclasses.dataclass(frozen=True).")
  if (cls.__doc__ or f"{cls.__name__}(").startswith(f"{cls.__name__}("):  # dataclass wrote it
    raise TypeError(f"{cls.__qualname__} needs a docstring: its first line is shown to users.")
  with gin_config.interactive_mode() if again else contextlib.nullcontext():
    gin.register(name, module=module)(cls)  # gin refuses a name that it knows, but interactively
  _classes[name] = cls
  return cls


def _place(cls: type) -> tuple[str, str]:
  return cls.__module__, cls.__qualname__


def _is_frozen_dataclass(cls: type) -> bool:
  return dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen  # pyright: ignore

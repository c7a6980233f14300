"""Strict gin: from a configuration to the object it describes, or to one clear message.

`load` parses, checks everything that can be checked before anything is built, builds the root
(plain frozen dataclasses: no environment, no array), and leaves no global state behind.
"""

import dataclasses
import re
import tokenize
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gin
from gin import config as gin_config
from gin import config_parser

from . import registry
from .annotations import KIND_OF_PROTOCOL, Component, describe, fits, hint
from .errors import UserError, did_you_mean

ROOT = Path(__file__).resolve().parents[1] / "gin_configs"
_MACRO = "gin.macro"
_CONSTANT = "gin.constant"


class ConfigError(UserError):
  """A mistake in a configuration; the message says where it is and what to write instead."""


class Loaded(NamedTuple):
  """A configuration that passed every check."""

  root: Any  # the built root, a frozen dataclass that holds all the others
  text: str  # what was bound, includes and `--bind` resolved; loads back
  operative: str  # the same with every default in use; loads back
  flat: dict[str, Any]  # 'component.parameter' -> value in use, macros resolved, for loggers


class _Binding(NamedTuple):
  value: Any
  where: str  # 'file:line', or the --bind it came from


_Scope = tuple[str, ...]
_Table = dict[tuple[str, str], dict[str, _Binding]]  # (scope, component or macro) -> bindings
_Reached = dict[tuple[_Scope, str], dict[str, _Binding]]  # what gets built -> bindings in use


@dataclasses.dataclass(frozen=True)
class _Unknown:
  """Stands for a reference to no known component, until its line is known."""

  name: str


def load(config: str | Path, bindings: Sequence[str] = (), root: str = "train") -> Loaded:
  """Loads a configuration and builds `@root()` of it.

  Args:
    config: a gin file, or the name of a packaged one, such as `experiments/catch_stacx`.
    bindings: further lines of gin that override it, such as `train.seed = 1`.
    root: name of the configurable that everything hangs from.

  Raises:
    ConfigError: anything that the user should mend.
  """
  registry.load_all()
  table: _Table = {}
  _read_file(_find(str(config)), table, set())
  for text in bindings:
    _read_bind(text, table)
  reached: _Reached = {}
  _reach(table, (), root, str(config), (), reached)
  _check_all_read(table, reached)
  _check_types(table, reached)
  try:
    for (scope, name), args in table.items():
      for arg, binding in args.items():
        gin.bind_parameter((scope, name, arg), binding.value)
    built = _build(root, reached)
    return Loaded(built, gin.config_str(), gin.operative_config_str(), _flat(table, reached))
  finally:
    gin.clear_config()


def experiments() -> list[str]:
  """The packaged configurations that can be run."""
  paths = sorted((ROOT / "experiments").rglob("*.gin"))
  return [path.relative_to(ROOT).with_suffix("").as_posix() for path in paths]


# Reading: statements into a table, with the place of each.


def _find(config: str) -> Path:
  for path in (Path(config), Path(f"{config}.gin"), ROOT / config, ROOT / f"{config}.gin"):
    if path.is_file():
      return path
  raise ConfigError(
    f"no gin file or experiment '{config}'.{did_you_mean(config, experiments())} "
    f"Experiments: {', '.join(experiments())}."
  )


def _read_file(path: Path, table: _Table, seen: set[Path]) -> None:
  if path.resolve() in seen:  # included twice: read once, or it would undo what was bound since
    return
  seen.add(path.resolve())
  try:
    text = path.read_text()
  except (OSError, UnicodeDecodeError) as error:
    raise ConfigError(f"cannot read {path}: {error}") from None
  for statement, where in _statements(text, lambda line: f"{path}:{line}"):
    if isinstance(statement, config_parser.IncludeStatement):
      beside, packaged = path.parent / statement.filename, ROOT / statement.filename
      if not (beside.is_file() or packaged.is_file()):
        raise ConfigError(
          f"{where}: no file '{statement.filename}' in {path.parent} or {ROOT}."
          + did_you_mean(statement.filename, (p.relative_to(ROOT).as_posix() for p in ROOT.rglob("*.gin")))
        )
      _read_file(beside if beside.is_file() else packaged, table, seen)
    else:
      _read_statement(statement, where, table)


def _read_bind(text: str, table: _Table) -> None:
  where = f"--bind '{text}'"
  statements = list(_statements(text, lambda _: where))
  if not statements:
    raise ConfigError(f"{where}: write 'component.parameter = value' or 'macro = value'.")
  for statement, _ in statements:
    if not isinstance(statement, config_parser.BindingStatement):
      raise ConfigError(f"{where}: only bindings are allowed here: 'component.parameter = value'.")
    _read_statement(statement, where, table)


def _statements(text: str, where: Callable[[int], str]) -> Iterator[tuple[Any, str]]:
  try:
    for statement in config_parser.ConfigParser(text, _Delegate()):
      yield statement, where(statement.location.line_num)
  except SyntaxError as error:
    raise ConfigError(f"{where(error.lineno or 1)}: {_explain(error)}") from None
  except tokenize.TokenError as error:
    raise ConfigError(f"{where(error.args[1][0])}: unfinished value: {error.args[0]}.") from None


def _explain(error: SyntaxError) -> str:
  line = (error.text or "").strip()
  word = re.search(r"Failed to parse token '(.*)'", error.msg)
  if word:
    w = word[1]
    return (
      f"cannot read the value {w} in: {line}. A string needs quotes ('{w}'), "
      f"a component is written @{w}(), a macro %{w}."
    )
  return f"{error.msg.splitlines()[0].rstrip('.')} in: {line}. Write 'component.parameter = value'."


class _Delegate(gin_config.ParserDelegate):
  """Lets unknown references through, so that the message can name their line."""

  def configurable_reference(self, scoped_selector, evaluate):
    if scoped_selector.split("/")[-1] not in registry.configurables():
      return _Unknown(scoped_selector.split("/")[-1])
    return super().configurable_reference(scoped_selector, evaluate)


def _read_statement(statement: Any, where: str, table: _Table) -> None:
  if isinstance(statement, config_parser.ImportStatement):
    _import(statement, where)
  elif isinstance(statement, config_parser.BlockDeclaration):
    _class_of(statement.selector, where)
  else:
    scope, name, arg, value, _ = statement
    for leaf in _leaves(value):
      if isinstance(leaf, _Unknown):
        _class_of(leaf.name, where)
      if isinstance(leaf, gin_config.ConfigurableReference) and not leaf.evaluate:
        raise ConfigError(f"{where}: {leaf} is not built. Write {leaf}().")
    if not arg:  # 'name = value' is a macro
      key, arg = ("/".join(filter(None, (scope, name))), _MACRO), "value"
    else:
      key = (scope, name)
      known = _fields(_class_of(name, where))
      if arg not in known:
        raise ConfigError(
          f"{where}: '{name}' has no parameter '{arg}'.{did_you_mean(arg, known)} "
          f"It has: {', '.join(known) or 'none'}."
        )
    table.setdefault(key, {})[arg] = _Binding(value, where)


def _import(statement: config_parser.ImportStatement, where: str) -> None:
  if statement.module.startswith("__gin__"):
    raise ConfigError(f"{where}: gin's dynamic registration is not supported; use @register.")
  try:
    gin.parse_config(statement.format())  # so that gin writes it into the saved configuration
  except Exception as error:  # whatever a module may raise
    reason = str(error).partition("\n")[0]
    raise ConfigError(f"{where}: cannot import {statement.module}: {reason}") from error


def _class_of(name: str, where: str) -> type:
  known = registry.configurables()
  if name not in known:
    lost = "".join(f"\n  unavailable: {m}: {why}" for m, why in registry.unavailable().items())
    raise ConfigError(f"{where}: no component is named '{name}'.{did_you_mean(name, known)}{lost}")
  return known[name]


# Checking: what is reached from the root, is everything bound read, does every value fit.


def _reach(
  table: _Table, scope: _Scope, name: str, where: str, path: tuple, reached: _Reached
) -> None:
  """Walks the references as gin will follow them: a scope holds until another one is opened."""
  if (scope, name) in path:
    raise ConfigError(f"{where}: {_label(scope, name)} contains itself.")
  if (scope, name) in reached:
    return
  bound: dict[str, _Binding] = {}
  for depth in range(len(scope) + 1):  # inner scopes override outer ones
    bound |= table.get(("/".join(scope[:depth]), name), {})
  if name == _MACRO and not bound:
    macros = [s for s, n in table if n == _MACRO]
    macro = "/".join(scope)
    raise ConfigError(f"{where}: macro '%{macro}' is not defined.{did_you_mean(macro, macros)}")
  for arg in _required(name, where) if name != _MACRO else ():
    if arg not in bound:
      raise ConfigError(f"{where}: {_missing(name, arg)}")
  for arg, binding in bound.items():
    for ref in _references(binding.value):
      target = ref.configurable.selector
      if target == _CONSTANT:  # %gin.REQUIRED is the only one
        key = "/".join(scope) if name == _MACRO else None
        what = f"{key} must be given. Write: {key} = ..." if key else _missing(name, arg)
        raise ConfigError(f"{binding.where}: {what}")
      target = _MACRO if target == _MACRO else ref.selector
      inner = tuple(ref.scopes) or scope
      _reach(table, inner, target, binding.where, (*path, (scope, name)), reached)
  reached[scope, name] = bound


def _required(name: str, where: str) -> list[str]:
  return [
    f.name
    for f in _fields(_class_of(name, where)).values()
    if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
  ]


def _missing(name: str, arg: str) -> str:
  annotation = typing.get_type_hints(registry.configurables()[name])[arg]
  choice = registry.plugins().get(KIND_OF_PROTOCOL.get(annotation, ""), {})
  these = f": {', '.join(f'@{n}()' for n in choice)}" if choice else ""
  return f"{name}.{arg} must be given ({describe(annotation)}{these}). Write: {name}.{arg} = ..."


def _check_all_read(table: _Table, reached: _Reached) -> None:
  for (scope, name), args in table.items():
    opened = [s for s, n in reached if n == name]
    parts = tuple(scope.split("/")) if scope else ()
    if any(s[: len(parts)] == parts for s in opened):
      continue
    where = next(iter(args.values())).where
    if name == _MACRO:
      macros = ["/".join(s) for s in opened]
      raise ConfigError(
        f"{where}: macro '{scope}' is defined but never read.{did_you_mean(scope, macros)}"
      )
    if opened:
      scopes = sorted({"/".join(s) for s in opened if s})
      raise ConfigError(
        f"{where}: scope '{scope}' is never opened for '{name}'.{did_you_mean(scope, scopes)} "
        f"Write @{scope}/{name}() where it is built, or bind {name}.{next(iter(args))}."
      )
    raise ConfigError(
      f"{where}: '{name}' is bound but never built: nothing refers to @{name}(). "
      f"Refer to it, or remove {name}.{next(iter(args))}."
    )


def _check_types(table: _Table, reached: _Reached) -> None:
  for (_, name), bound in reached.items():
    if name == _MACRO:
      continue
    annotations = typing.get_type_hints(registry.configurables()[name])
    for arg, binding in bound.items():
      value = _resolve(binding.value, table)
      if not fits(value, annotations[arg]):
        raise ConfigError(
          f"{binding.where}: {name}.{arg} takes {describe(annotations[arg])}, "
          f"not {value!r}.{hint(value, annotations[arg])}"
        )


# Building.


def _build(root: str, reached: _Reached) -> Any:
  try:
    return gin.get_configurable(root)()
  except (ValueError, UserError) as error:  # gin has appended the chain of calls to the message
    message, _, calls = str(error).partition("\n  In call to configurable '")
    name = calls.partition("'")[0]
    bound = {a: b for (_, n), args in reached.items() if n == name for a, b in args.items()}
    where = [b.where for a, b in bound.items() if re.search(rf"\b{a}\b", message)]
    raise ConfigError(f"{where[0] if where else root}: {name}: {message}") from error


def _flat(table: _Table, reached: _Reached) -> dict[str, Any]:
  flat = {}
  for scope, name in sorted(reached):
    if name == _MACRO:
      continue
    for f in _fields(registry.configurables()[name]).values():
      if f.name in reached[scope, name]:
        flat[f"{_label(scope, name)}.{f.name}"] = _plain(
          _resolve(reached[scope, name][f.name].value, table)
        )
      elif f.default is not dataclasses.MISSING:
        flat[f"{_label(scope, name)}.{f.name}"] = _plain(f.default)
  return flat


def _plain(value: Any) -> Any:
  return value if all(isinstance(v, (str, int, float, type(None))) for v in _leaves(value)) else repr(value)


# Values: literals, and references within them.


def _fields(cls: Any) -> dict[str, dataclasses.Field]:
  return {f.name: f for f in dataclasses.fields(cls) if f.init}


def _label(scope: _Scope, name: str) -> str:
  return f"%{'/'.join(scope)}" if name == _MACRO else "/".join((*scope, name))


def _leaves(value: Any) -> Iterator[Any]:
  if isinstance(value, dict):
    value = (*value.keys(), *value.values())
  if type(value) in (list, tuple):
    for item in value:
      yield from _leaves(item)
  else:
    yield value


def _references(value: Any) -> list[gin_config.ConfigurableReference]:
  return [v for v in _leaves(value) if isinstance(v, gin_config.ConfigurableReference)]


def _resolve(value: Any, table: _Table) -> Any:
  """The value with macros replaced by what they hold, and references by `Component`."""
  if isinstance(value, dict):
    return {_resolve(k, table): _resolve(v, table) for k, v in value.items()}
  if type(value) in (list, tuple):
    return type(value)(_resolve(v, table) for v in value)
  if not isinstance(value, gin_config.ConfigurableReference):
    return value
  if value.configurable.selector == _MACRO:
    return _resolve(table["/".join(value.scopes), _MACRO]["value"].value, table)
  cls = registry.configurables()[value.selector]
  return Component(value.selector, cls, registry.kind_of(value.selector))

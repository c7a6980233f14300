"""The bindings of a configuration, and the checks of them before anything is built.

Everything that gets built hangs from one root by references, so walking them tells which bindings
are in use; every other one is a mistake.
"""

import dataclasses
from typing import Any, NamedTuple

from ..api import registry
from ..api.errors import ConfigError, did_you_mean
from .saving import Bindings, unwritable
from .values import (
  Macro,
  Reference,
  annotations,
  describe,
  fits,
  hint,
  is_literal,
  leaves,
  map_leaves,
  with_floats,
)

MACRO = "gin.macro"  # a macro is bound as `<its name>/gin.macro.value`
REQUIRED = Macro("gin.REQUIRED")


class Binding(NamedTuple):
  """One bound value: literals, `Reference` and `Macro`, and where it is written."""

  value: Any
  where: str  # 'file:line', or the --bind it came from
  replaced: tuple[str, ...] = ()  # macros that the binding before it read


Scope = tuple[str, ...]
Table = dict[tuple[str, str], dict[str, Binding]]  # (scope, name) -> parameter -> last binding
Reached = dict[tuple[Scope, str], dict[str, Binding]]  # what gets built -> bindings that it sees


def fields(name: str) -> dict[str, dataclasses.Field]:
  """Returns the fields of a registered component that can be bound, by name."""
  return {f.name: f for f in dataclasses.fields(registry.configurables()[name]) if f.init}


def default(field: dataclasses.Field) -> Any:
  """Returns a field's default as a configuration has it, or dataclasses.MISSING."""
  factory = field.default_factory
  value = field.default if factory is dataclasses.MISSING else factory()
  built = type(value) in registry.configurables().values()
  return Reference((), registry.name_of(value)) if built else value


def lookup(name: str, where: str) -> None:
  """Raises ConfigError unless a component of this name is registered."""
  known = registry.configurables()
  if name not in known:
    lost = "".join(f"\n  unavailable: {m}: {why}" for m, why in registry.unavailable().items())
    raise ConfigError(f"{where}: no component is named '{name}'.{did_you_mean(name, known)}{lost}")


def reach(table: Table, root: str, where: str) -> Reached:
  """Finds what building `@root()` will build, and the bindings each sees, as gin resolves them.

  Inner scopes override outer ones, and a scope holds until a reference opens another.

  Raises:
    ConfigError: a required parameter is not bound, a macro is not defined, a cycle.
  """
  lookup(root, where)
  reached: Reached = {}
  _walk(table, (), root, where, (), reached)
  return reached


def _walk(table: Table, scope: Scope, name: str, where: str, path: tuple, reached: Reached) -> None:
  # `path` is the chain of references down to here: gin would follow a cycle without end. `reached`
  # holds what other chains have led to in the same scope, which is walked once.
  if (scope, name) in path:
    raise ConfigError(f"{where}: {_label(scope, name)} contains itself.")
  if (scope, name) in reached:
    return
  bound: dict[str, Binding] = {}
  # From the outermost scope inwards: `|=` lets the inner binding win, as gin does.
  for depth in range(len(scope) + 1):
    bound |= table.get(("/".join(scope[:depth]), name), {})
  _check_given(table, scope, name, bound, where)
  path = (*path, (scope, name))
  for binding in bound.values():
    for leaf in leaves(binding.value):
      if isinstance(leaf, Reference):
        _walk(table, leaf.scopes or scope, leaf.name, binding.where, path, reached)
      elif isinstance(leaf, Macro):
        _walk(table, tuple(leaf.name.split("/")), MACRO, binding.where, path, reached)
  reached[scope, name] = bound


def _check_given(table: Table, scope: Scope, name: str, bound: dict, where: str) -> None:
  """Raises ConfigError for a macro that is not defined or a required field that is not bound."""
  if name == MACRO:
    macro = "/".join(scope)
    if "value" not in bound:
      near = did_you_mean(macro, [s for s, n in table if n == MACRO])
      raise ConfigError(f"{where}: macro '%{macro}' is not defined.{near}")
    if bound["value"].value == REQUIRED:
      raise ConfigError(f"{bound['value'].where}: {macro} must be given. Write: {macro} = ...")
    return
  for arg, field in fields(name).items():
    missing = (dataclasses.MISSING, dataclasses.MISSING) == (field.default, field.default_factory)
    # Either it is bound to gin.REQUIRED, or it has neither a binding nor a default.
    if bound[arg].value == REQUIRED if arg in bound else missing:
      annotation = annotations(registry.configurables()[name])[arg]
      plugins = registry.plugins().get(registry.kind_of_contract(annotation) or "", {})
      choice = f": {', '.join(f'@{plugin}()' for plugin in plugins)}" if plugins else ""
      raise ConfigError(
        f"{bound[arg].where if arg in bound else where}: {name}.{arg} must be given "
        f"({describe(annotation)}{choice}). Write: {name}.{arg} = ..."
      )


def check_all_read(table: Table, reached: Reached) -> None:
  """Raises ConfigError for the first binding that nothing built would read."""
  for (scope, name), args in table.items():
    opened = [s for s, n in reached if n == name]
    # A scope applies where it, or a scope within it, has been opened.
    parts = tuple(scope.split("/")) if scope else ()
    if any(s[: len(parts)] == parts for s in opened):
      continue
    arg, binding = next(iter(args.items()))
    if name == MACRO:
      # First the likelier slip: a later binding has replaced the only one that read the macro.
      _check_not_replaced(table, scope)
      near = did_you_mean(scope, ["/".join(s) for s in opened])
      raise ConfigError(f"{binding.where}: macro '{scope}' is defined but never read.{near}")
    if opened:
      near = did_you_mean(scope, sorted({"/".join(s) for s in opened if s}))
      raise ConfigError(
        f"{binding.where}: scope '{scope}' is never opened for '{name}'.{near} Write "
        f"{Reference(parts, name)} where it is built, or bind {name}.{arg}."
      )
    raise ConfigError(
      f"{binding.where}: '{name}' is bound but never built. "
      f"Refer to it as {Reference((), name)}, or remove {_label(parts, name)}.{arg}."
    )


def _check_not_replaced(table: Table, macro: str) -> None:
  """Raises ConfigError if a binding took the place of one that read the macro."""
  for (scope, name), args in table.items():
    for arg, binding in args.items():
      if macro in binding.replaced:
        what = f"{_label(tuple(filter(None, [scope])), name)}.{arg}"
        raise ConfigError(
          f"{binding.where}: {what} was %{macro}, which nothing else reads now. "
          f"Bind the macro instead: {macro} = {binding.value!r}"
        )


def check_types(table: Table, reached: Reached) -> None:
  """Raises ConfigError for the first value that does not fit its parameter's annotation."""
  for (_, name), bound in reached.items():
    # A macro has no type of its own: its value is resolved and checked wherever it is read.
    hints = {} if name == MACRO else annotations(registry.configurables()[name])
    for arg, annotation in hints.items():
      if arg in bound:
        value = resolve(bound[arg].value, table)
        if not fits(value, annotation):
          raise ConfigError(
            f"{bound[arg].where}: {name}.{arg} takes {describe(annotation)}, "
            f"not {value!r}.{hint(value, annotation)}"
          )


def check_complete(reached: Reached) -> None:
  """Raises ConfigError for the first plugin that lacks what its kind is asked for."""
  for _, name in reached:
    kind = registry.kind_of(name)
    if kind is None:
      continue
    cls, protocol = registry.configurables()[name], registry.contract(kind)
    wanted = [n for n in vars(protocol) if not n.startswith("_") or n == "__call__"]
    # A field without a default is no attribute of its class, so names of fields count as well.
    missing = set(wanted) - set(dir(cls)) - set(fields(name))
    if missing:
      raise ConfigError(
        f"{cls.__module__}.{cls.__qualname__}, registered as {kind} @{name}(), "
        f"lacks {', '.join(n for n in wanted if n in missing)}: see "
        f"{protocol.__module__}.{protocol.__name__}."
      )


def written(table: Table) -> Bindings:
  """Returns what was bound, by component; macros apart."""
  return {
    "/".join(filter(None, key)): {arg: binding.value for arg, binding in args.items()}
    for key, args in table.items()
    if key[1] != MACRO
  }


def operative(reached: Reached) -> Bindings:
  """Returns the bindings of what gets built, with every default that can be written."""
  return {
    _label(scope, name): {
      arg: bound[arg].value if arg in bound else default(field)
      for arg, field in fields(name).items()
      if arg in bound or (is_literal(default(field)) and not unwritable(default(field)))
    }
    for (scope, name), bound in reached.items()
    if name != MACRO
  }


def flatten(table: Table, reached: Reached) -> dict[str, Any]:
  """Returns the values in use by 'component.parameter', defaults too; references as text.

  An int is a float where one is meant, so that a number is the same however it is written.
  """
  flat = {}
  for scope, name in sorted(key for key in reached if key[1] != MACRO):
    hints = annotations(registry.configurables()[name])
    for arg, field in fields(name).items():
      if arg in reached[scope, name]:
        value = resolve(reached[scope, name][arg].value, table)
      else:
        value = default(field)
        if value is dataclasses.MISSING:
          continue
      value = with_floats(value, hints[arg])
      flat[f"{_label(scope, name)}.{arg}"] = value if is_literal(value) else repr(value)
  return flat


def resolve(value: Any, table: Table) -> Any:
  """Returns a value with every macro replaced by what it holds."""

  def leaf(x: Any) -> Any:
    if not isinstance(x, Macro):
      return x
    scopes = x.name.split("/")
    # A macro of scope a/b that is not defined is that of a, as gin resolves it. `reach` has refused
    # macros that are undefined or hold themselves: so one is found, and the recursion ends.
    held = (table.get(("/".join(scopes[:n]), MACRO)) for n in range(len(scopes), 0, -1))
    return resolve(next(filter(None, held))["value"].value, table)

  return map_leaves(leaf, value)


def _label(scope: Scope, name: str) -> str:
  return f"%{'/'.join(scope)}" if name == MACRO else "/".join((*scope, name))

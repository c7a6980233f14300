"""Configured values: literals, references and macros, and whether one fits a field's annotation."""

import collections.abc
import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

from ..api import registry
from ..api.ranges import LARGEST, TINY, Range
from ..api.registry import kind_of_contract

_SEQUENCES = (collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
_MAPPINGS = (dict, collections.abc.Mapping)


@dataclasses.dataclass(frozen=True)
class Reference:
  """A reference `@scopes/name()`: an instance of the component, built in these scopes."""

  scopes: tuple[str, ...]
  name: str

  def __repr__(self) -> str:
    return f"@{'/'.join((*self.scopes, self.name))}()"


@dataclasses.dataclass(frozen=True)
class Macro:
  """A macro `%name`: the value bound by `name = value`."""

  name: str

  def __repr__(self) -> str:
    return f"%{self.name}"


def leaves(value: Any) -> Iterator[Any]:
  """Yields what a value holds within its dicts, lists and tuples."""
  if isinstance(value, dict):
    # Gin reads any value as a key, a macro for one.
    value = (*value.keys(), *value.values())
  if isinstance(value, (list, tuple)):
    for item in value:
      yield from leaves(item)
  else:
    yield value


def map_leaves(f: Callable[[Any], Any], value: Any) -> Any:
  """Returns the same value with `f` applied to each of its leaves."""
  if isinstance(value, dict):
    return {map_leaves(f, k): map_leaves(f, v) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return type(value)(map_leaves(f, v) for v in value)
  return f(value)


def is_literal(value: Any) -> bool:
  """Says whether a value holds text, numbers, True, False and None alone."""
  return all(isinstance(leaf, str | int | float | None) for leaf in leaves(value))


def annotations(cls: type) -> dict[str, Any]:
  """Returns the evaluated annotations of a dataclass, inherited fields too."""
  return typing.get_type_hints(cls, include_extras=True)


def fits(value: Any, annotation: Any) -> bool:
  """Says whether `value` is of the annotated type: an int is a float, a bool is no int."""
  origin, args = typing.get_origin(annotation), typing.get_args(annotation)
  # The order matters: what an annotation wraps is looked at before what it is.
  if annotation in (Any, object) or isinstance(annotation, typing.TypeVar):
    return True
  if origin is typing.Annotated:
    return fits(value, args[0]) and all(r.holds(value) for r in args[1:] if isinstance(r, Range))
  if origin in (typing.Union, types.UnionType):
    return any(fits(value, a) for a in args)
  # Before the types of literals: a reference stands for an instance, which is not built yet.
  if isinstance(value, Reference):
    return _reference_fits(value, annotation)
  if annotation in (None, types.NoneType):
    return value is None
  if origin is typing.Literal:
    # By type as well: to Python 1 == 1.0 == True.
    return any(value == a and type(value) is type(a) for a in args)
  if annotation is float:
    return type(value) in (int, float)  # not isinstance: True is an int to Python
  if annotation is int:
    return type(value) is int
  container = origin or annotation
  if container is tuple:
    return isinstance(value, tuple) and _tuple_fits(value, args)
  if container is list or container in _SEQUENCES:
    # A plain `list`, without an argument, holds anything: then `args[:1]` is empty.
    kinds = list if container is list else (list, tuple)
    return isinstance(value, kinds) and all(fits(v, a) for v in value for a in args[:1])
  if container in _MAPPINGS:
    return isinstance(value, dict) and all(
      fits(k, args[0]) and fits(v, args[1]) for k, v in value.items() if args
    )
  # A protocol is for references, above: isinstance would raise for most, or compare names alone.
  return inspect.isclass(container) and not _is_protocol(container) and isinstance(value, container)


def with_floats(value: Any, annotation: Any) -> Any:
  """Returns a value that fits its annotation, with a float for every int where that says float."""
  origin, args = typing.get_origin(annotation), typing.get_args(annotation)
  if origin is typing.Annotated:
    return with_floats(value, args[0])
  if origin in (typing.Union, types.UnionType):
    # As the first member that it fits: where that is int, in `int | float`, an int stays one.
    return with_floats(value, next((a for a in args if fits(value, a)), None))
  if annotation is float and type(value) is int:
    return float(value)
  if not args:
    return value
  if origin in _MAPPINGS and isinstance(value, dict):
    return {with_floats(k, args[0]): with_floats(v, args[1]) for k, v in value.items()}
  if origin in (tuple, list, *_SEQUENCES) and isinstance(value, (list, tuple)):
    each = origin is tuple and args[-1] is not Ellipsis
    items = zip(value, args if each else args[:1] * len(value), strict=True)
    return type(value)(with_floats(*item) for item in items)
  return value


def describe(annotation: Any) -> str:
  """Describes an annotation, for messages: `int or None`, `a component of kind loss`."""
  # Before all else: a contract is a class, too, but the name of its kind is what a user writes.
  if kind := kind_of_contract(annotation):
    return f"a component of kind {kind}"
  origin, args = typing.get_origin(annotation), typing.get_args(annotation)
  if origin is typing.Annotated:
    return " ".join([describe(args[0]), *(r.says for r in args[1:] if isinstance(r, Range))])
  if origin in (typing.Union, types.UnionType):
    return " or ".join(describe(a) for a in args)
  if origin is typing.Literal:
    return "one of " + ", ".join(repr(a) for a in args)
  if origin is tuple and args[-1:] == (Ellipsis,):
    return f"a tuple, each item {describe(args[0])}"
  if origin in _MAPPINGS and args:
    return f"a dict, each value {describe(args[1])}"
  if annotation in (None, types.NoneType):
    return "None"
  if origin is None and inspect.isclass(annotation):
    return annotation.__name__
  return str(annotation).replace("typing.", "").replace("collections.abc.", "")


def hint(value: Any, annotation: Any) -> str:
  """Says what to write instead of a value, where the slip is a common one; else ''."""
  options = (
    typing.get_args(annotation)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType)
    else (annotation,)
  )
  for option in options:
    if typing.get_origin(option) is typing.Annotated:
      option = typing.get_args(option)[0]
    is_tuple = tuple in (option, typing.get_origin(option))
    if is_tuple and isinstance(value, list) and fits(tuple(value), option):
      return f" Write {tuple(value)!r}."
    if is_tuple and isinstance(value, tuple) and typing.get_args(option)[1:] == (Ellipsis,):
      item = typing.get_args(option)[0]
      return next((hint(v, item) for v in value if not fits(v, item)), "")
    if is_tuple and fits((value,), option):
      return f" A tuple of one needs a comma: ({value!r},)."
    if option is int and isinstance(value, float) and value.is_integer():
      return f" Write {int(value)}."
    if option is int and type(value) is int and value > LARGEST:
      return f" It is at most {LARGEST:_}."
    if option is float and isinstance(value, float) and 0 < value < TINY:
      return " In float32 that is 0."
    if option is bool and value in (0, 1):
      return f" Write {bool(value)}."
    if typing.get_origin(option) in _MAPPINGS and isinstance(value, dict):
      _, item = typing.get_args(option)
      return next((hint(v, item) for v in value.values() if not fits(v, item)), "")
    if kind_of_contract(option) and isinstance(value, str):
      return f" A component is written @{value}()."
  return ""


def _reference_fits(reference: Reference, annotation: Any) -> bool:
  if kind := kind_of_contract(annotation):
    return registry.kind_of(reference.name) == kind
  if _is_protocol(annotation):
    return True  # a protocol of the plugin's own: only running it can tell
  cls = registry.configurables()[reference.name]
  return inspect.isclass(annotation) and issubclass(cls, annotation)


def _tuple_fits(value: tuple, args: tuple) -> bool:
  if args[-1:] == (Ellipsis,):
    return all(fits(v, args[0]) for v in value)
  return not args or (len(value) == len(args) and all(map(fits, value, args)))


def _is_protocol(annotation: Any) -> bool:
  return inspect.isclass(annotation) and getattr(annotation, "_is_protocol", False)

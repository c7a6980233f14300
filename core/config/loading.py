"""Strict gin: from a configuration to the object it describes, or to one clear message.

`load` reads, checks, builds the root (plain frozen dataclasses: no environment, no array), and
leaves nothing in gin's global state. Build in the main thread: gin's scopes belong to a thread.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gin
from gin import config as gin_config
from gin import config_parser

from ..api.errors import ConfigError, UserError
from . import discovery
from .bindings import (
  MACRO,
  Reached,
  Table,
  check_all_read,
  check_complete,
  check_types,
  flatten,
  operative,
  reach,
  written,
)
from .modules import Importing
from .reading import (
  Read,
  find,
  read_bind,
  read_file,
  read_statement,
  statements,
)
from .saving import write
from .values import Macro, Reference, map_leaves


class Loaded(NamedTuple):
  """A configuration that passed every check."""

  root: Any  # the built root, a frozen dataclass that holds all the others
  text: str  # what was bound, with includes and --bind resolved; loads back
  operative: str  # the same with every default in use; loads back
  flat: dict[str, Any]  # 'component.parameter' -> value in use, macros resolved, for loggers


def load(
  config: str | Path | None,
  bindings: Sequence[str] = (),
  root: str = "train",
  importing: Importing = lambda module, folders: folders,
) -> Loaded:
  """Loads a configuration and builds `@root()` of it.

  Args:
    config: a gin file, or the name of a packaged one, such as `experiments/catch_stacx`; None for
      the bindings alone.
    bindings: further bindings that override it, such as `train.seed = 1`; or includes of files,
      such as `include 'envs/catch.gin'`, of which those that the configuration has are not read
      again.
    root: name of the configurable that everything hangs from.
    importing: is called before a module is imported, with its name and the folders where it is
      looked for beside where Python looks; returns those to take, or raises UserError.

  Raises:
    ConfigError: anything that the user should mend.
  """
  discovery.load_all()
  gin.clear_config()  # its state is global: of a load before this one, or of the user's own
  try:
    read = Read(importing)
    # Files before bindings: the last binding of a parameter is the one that counts.
    if config is not None:
      read_file(find(str(config)), read)
    for text in bindings:
      read_bind(text, read)
    table = read.table
    # All of it before gin builds anything: a message with file and line, not a traceback.
    reached = reach(table, root, str(config or root))
    check_all_read(table, reached)
    check_types(table, reached)
    check_complete(reached)
    # Gin parses no file itself: it is given what has passed the checks, and only builds.
    for (scope, name), args in table.items():
      for arg, binding in args.items():
        gin.bind_parameter((scope, name, arg), map_leaves(_for_gin, binding.value))
    built = _build(root, reached)
    imports = sorted(read.imports)
    macros = {scope: args["value"].value for (scope, name), args in table.items() if name == MACRO}
    text = write(imports, macros, written(table))
    _check_comes_back(text, table)
    return Loaded(built, text, write(imports, macros, operative(reached)), flatten(table, reached))
  finally:
    gin.clear_config()


def _check_comes_back(text: str, table: Table) -> None:
  """Raises ConfigError for the first binding that the saved text does not give back."""
  # Found now, at the start, and not when a run of days is to be resumed.
  again: Table = {}
  for statement, where in statements(text, lambda line: f"the saved configuration:{line}"):
    if isinstance(statement, config_parser.BindingStatement):
      read_statement(statement, where, again)
  for (scope, name), args in table.items():
    for arg, binding in args.items():
      saved = again.get((scope, name), {}).get(arg)
      # By repr: to Python 1 == 1.0 == True, and dicts are equal whatever their order.
      if saved is None or repr(saved.value) != repr(binding.value):
        raise ConfigError(
          f"{binding.where}: {binding.value!r} would not come back from a saved configuration. "
          "Write numbers, strings, True, False or None, and tuples, lists or dicts of these."
        )


def _for_gin(leaf: Any) -> Any:
  """Returns a leaf as gin itself would have parsed it."""
  delegate = gin_config.ParserDelegate()
  if isinstance(leaf, Reference):
    return delegate.configurable_reference("/".join((*leaf.scopes, leaf.name)), True)
  return delegate.macro(leaf.name) if isinstance(leaf, Macro) else leaf


def _build(root: str, reached: Reached) -> Any:
  """Has gin build the root; a plugin's complaint gets the line of the binding that it names."""
  try:
    return gin.get_configurable(root)()
  except (ValueError, UserError) as error:  # gin has appended the chain of calls to the message
    message, _, calls = str(error).partition("\n  In call to configurable '")
    name = calls.partition("'")[0]  # the innermost: the one that raised
    # A plugin's message names the field that it refuses; the binding of that is where to look.
    seen = [item for (_, n), bound in reached.items() if n == name for item in bound.items()]
    named = [binding.where for arg, binding in seen if re.search(rf"\b{arg}\b", message)]
    raise ConfigError(f"{named[0] if named else root}: {name}: {message}") from error

"""Strict gin: from a configuration to the object it describes, or to one clear message.

`load` parses, checks, builds the root (plain frozen dataclasses: no environment, no array), and
leaves nothing in gin's global state. Build in the main thread: gin's scopes belong to a thread.
"""

import dataclasses
import importlib
import json
import re
import sys
import tokenize
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gin
from gin import config as gin_config
from gin import config_parser

from ..api import registry
from ..api.errors import ConfigError, UserError, did_you_mean
from . import discovery
from .bindings import (
  MACRO,
  Binding,
  Reached,
  Table,
  check_all_read,
  check_complete,
  check_types,
  fields,
  flatten,
  lookup,
  operative,
  reach,
  written,
)
from .saving import unwritable, write
from .values import Macro, Reference, leaves, map_leaves

ROOT = Path(__file__).resolve().parents[2] / "gin_configs"
EXPERIMENTS = "experiments"  # the folder of those that can be run
RENAMED = ROOT / "renamed.json"  # names of earlier versions -> those of now


class Loaded(NamedTuple):
  """A configuration that passed every check."""

  root: Any  # the built root, a frozen dataclass that holds all the others
  text: str  # what was bound, with includes and --bind resolved; loads back
  operative: str  # the same with every default in use; loads back
  flat: dict[str, Any]  # 'component.parameter' -> value in use, macros resolved, for loggers


Importing = Callable[[str, Sequence[Path]], Sequence[Path]]


@dataclasses.dataclass
class _Read:
  """The parts of a configuration that have been read so far."""

  importing: Importing
  table: Table = dataclasses.field(default_factory=dict)
  files: set[Path] = dataclasses.field(default_factory=set)
  imports: set[str] = dataclasses.field(default_factory=set)  # statements


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
    read = _Read(importing)
    # Files before bindings: the last binding of a parameter is the one that counts.
    if config is not None:
      _read_file(_find(str(config)), read)
    for text in bindings:
      _read_bind(text, read)
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
  for statement, where in _statements(text, lambda line: f"the saved configuration:{line}"):
    if isinstance(statement, config_parser.BindingStatement):
      _read_statement(statement, where, again)
  for (scope, name), args in table.items():
    for arg, binding in args.items():
      saved = again.get((scope, name), {}).get(arg)
      # By repr: to Python 1 == 1.0 == True, and dicts are equal whatever their order.
      if saved is None or repr(saved.value) != repr(binding.value):
        raise ConfigError(
          f"{binding.where}: {binding.value!r} would not come back from a saved configuration. "
          "Write numbers, strings, True, False or None, and tuples, lists or dicts of these."
        )


def experiments() -> list[str]:
  """Lists the packaged configurations that can be run."""
  return [name.removesuffix(".gin") for name in _packaged() if name.startswith(f"{EXPERIMENTS}/")]


def _packaged() -> list[str]:
  return sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.gin"))


def _find(config: str) -> Path:
  """Finds a gin file: by its path, then among those that are packaged."""
  # A file of the user's goes before a packaged one of the same name.
  for folder in (Path(), ROOT, ROOT / EXPERIMENTS):
    for path in (folder / config, folder / f"{config}.gin"):
      if path.is_file():
        return path
  if now := _renamed(_experiment(config)):
    experiment, *bindings = now
    words = [experiment, *(f'--bind "{binding}"' for binding in bindings)]
    raise ConfigError(f"no gin file or experiment '{config}'. Write {' '.join(words)}")
  near = did_you_mean(f"{EXPERIMENTS}/{Path(config).stem}", experiments(), cutoff=0.8)
  known = near or f" Experiments: {', '.join(experiments())}."
  raise ConfigError(f"no gin file or experiment '{config}'.{known}")


def _renamed(name: str) -> list[str]:
  """Looks up a name of an earlier version in `renamed.json`; [] if it never was one.

  An experiment has the experiment to take in its place, and then what to bind in that; a parameter
  has its present name alone.
  """
  return json.loads(RENAMED.read_text(encoding="utf-8")).get(name, [])


def _experiment(config: str) -> str:
  """Returns the packaged name that a file of this name would have."""
  return f"{EXPERIMENTS}/{Path(config).name.removesuffix('.gin')}"


def _read_file(path: Path, read: _Read) -> None:
  """Reads a file and its includes, each once: a second time would undo what was bound since."""
  # Resolved: one file by two names, or by a link, is one file.
  if path.resolve() in read.files:
    return
  # Noted before it is read, so that files which include each other come to an end.
  read.files.add(path.resolve())
  try:
    text = path.read_text(encoding="utf-8-sig")  # some editors begin a file with a mark
  except (OSError, UnicodeDecodeError) as error:
    raise ConfigError(f"cannot read {path}: {error}") from None
  for statement, where in _statements(text, lambda line: f"{path}:{line}"):
    if isinstance(statement, config_parser.IncludeStatement):
      _include(statement.filename, where, path.parent, read)
    elif isinstance(statement, config_parser.ImportStatement):
      _import(statement, where, path.parent, read.importing)
      read.imports.add(statement.format())
    else:
      _read_statement(statement, where, read.table)


def _include(name: str, where: str, folder: Path, read: _Read) -> None:
  """Reads a file that is included, from this folder or those that are packaged."""
  found = [p for p in (folder / name, ROOT / name) if p.is_file()]
  if not found:
    near = did_you_mean(name, _packaged())
    if now := _renamed(_experiment(name)):
      near = f" Write include '{now[0]}.gin', and below it: {'; '.join(now[1:])}"
    raise ConfigError(f"{where}: no file '{name}' in {folder} or {ROOT}.{near}")
  _read_file(found[0], read)


def _read_bind(text: str, read: _Read) -> None:
  where = f"--bind '{text}'"
  statements = [statement for statement, _ in _statements(text, lambda _: where)]
  known = config_parser.BindingStatement, config_parser.IncludeStatement
  if not statements or not all(isinstance(s, known) for s in statements):
    raise ConfigError(f"{where}: write 'component.parameter = value' or 'macro = value'.")
  for statement in statements:
    if isinstance(statement, config_parser.IncludeStatement):
      _include(statement.filename, where, Path(), read)
    else:
      _read_statement(statement, where, read.table)


def _statements(text: str, where: Callable[[int], str]) -> Iterator[tuple[Any, str]]:
  """Parses statements of gin, and where each is written; errors of syntax become ConfigError."""
  # Where the last whole statement stood: a TypeError does not say where it arose.
  line = 1
  try:
    for statement in config_parser.ConfigParser(text, _Delegate()):
      line = statement.location.line_num
      yield statement, where(line)
  except SyntaxError as error:
    raise ConfigError(f"{where(error.lineno or 1)}: {_explain(error)}") from None
  except tokenize.TokenError as error:  # before Python 3.12 only where the text ends too early
    message, (line, _) = error.args
    if "EOF in" in message or "unterminated" in message:
      message += ": a bracket or quote is not closed"
    raise ConfigError(f"{where(line)}: {message}.") from None
  except (TypeError, RecursionError) as error:  # {[1]: 2}; brackets in a thousand brackets
    raise ConfigError(f"{where(line)}: a value from here on cannot be read: {error}.") from None


def _explain(error: SyntaxError) -> str:
  """Says what to write in place of what gin could not parse."""
  line = (error.text or "").strip()
  line = line if len(line) <= 100 else f"{line[:100]}..."
  # Gin reads values as literals of Python, which a bare word is not.
  word = re.search(r"Failed to parse token '(\w+)'", error.msg)
  if word and not word[1][0].isdecimal():
    w = word[1]
    return (
      f"cannot read the value {w} in '{line}'. A string needs quotes ('{w}'), "
      f"a component is written @{w}(), a macro %{w}."
    )
  # Of an int with too many digits Python tells how to lift its limit, which helps nobody here.
  reason = error.msg.splitlines()[0].partition("; use sys.set_int")[0][:200].rstrip(".")
  return f"{reason}{f' in {line!r}' if line else ''}. Write 'component.parameter = value'."


class _Delegate(config_parser.ParserDelegate):
  """A delegate that keeps references as written: gin's raises before their line is known."""

  def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Any:
    """Returns `@scopes/name()` as a Reference; without parentheses, as what is refused later."""
    *scopes, name = scoped_configurable_name.split("/")
    return Reference(tuple(scopes), name) if evaluate else _Unbuilt(scoped_configurable_name)

  def macro(self, macro_name: str) -> Macro:
    """Returns `%name` as a Macro."""
    return Macro(macro_name)


@dataclasses.dataclass(frozen=True)
class _Unbuilt:
  """Stands for `@name` without parentheses, which gives the class and not an instance."""

  name: str


def _for_gin(leaf: Any) -> Any:
  """Returns a leaf as gin itself would have parsed it."""
  delegate = gin_config.ParserDelegate()
  if isinstance(leaf, Reference):
    return delegate.configurable_reference("/".join((*leaf.scopes, leaf.name)), True)
  return delegate.macro(leaf.name) if isinstance(leaf, Macro) else leaf


def _import(
  statement: config_parser.ImportStatement, where: str, folder: Path, importing: Importing
) -> None:
  """Imports a module that is installed, beside the gin file or in the current folder."""
  if statement.module.startswith("__gin__"):
    raise ConfigError(f"{where}: gin's dynamic registration is not supported; use @register.")
  folders = map(str, importing(statement.module, (folder.resolve(), Path.cwd())))
  # At the end: a module beside a gin file takes no library's place.
  sys.path += [p for p in dict.fromkeys(folders) if p not in sys.path]
  try:
    with registry.foreign_code():
      importlib.import_module(statement.module)
  except Exception as error:  # whatever a module may raise
    reason = str(error).partition("\n")[0] or type(error).__name__
    # The module itself is missing, and not one that it imports in turn.
    if f"No module named '{statement.module.split('.')[0]}'" in reason:
      reason += f". Put it into {folder} or the current folder, or its folder on PYTHONPATH."
    raise ConfigError(f"{where}: cannot import {statement.module}: {reason}") from error


def _read_statement(statement: Any, where: str, table: Table) -> None:
  """Adds one binding to the table, or checks the head of a block of them."""
  if isinstance(statement, config_parser.BlockDeclaration):
    lookup(statement.selector, where)
    return
  for leaf in leaves(statement.value):
    if isinstance(leaf, Reference):
      lookup(leaf.name, where)
    elif isinstance(leaf, _Unbuilt):
      raise ConfigError(f"{where}: @{leaf.name} is not built. Write @{leaf.name}().")
  scope, name, arg = statement.scope, statement.selector, statement.arg_name
  if reason := unwritable(statement.value):
    raise ConfigError(f"{where}: {'.'.join(filter(None, (name, arg)))}: {reason}.")
  # `name = value`, without a dot, defines a macro; a scope before it is a part of its name.
  if not arg:
    scope, name, arg = "/".join(filter(None, (scope, name))), MACRO, "value"
  else:
    lookup(name, where)
    known = fields(name)
    if arg not in known:
      near = did_you_mean(arg, known)
      if now := _renamed(f"{name}.{arg}"):
        near = f" It is {now[0]} now."
      raise ConfigError(
        f"{where}: '{name}' has no parameter '{arg}'.{near} It has: {', '.join(known) or 'none'}."
      )
  bound = table.setdefault((scope, name), {})
  # Macros that a replaced binding read are kept: where nothing else reads them, `check_all_read`
  # says that this is why.
  replaced = leaves(bound[arg].value) if arg in bound else ()
  macros = tuple(leaf.name for leaf in replaced if isinstance(leaf, Macro))
  bound[arg] = Binding(statement.value, where, macros)  # the last one counts, as in gin


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

"""Reads gin files and bindings into a table, each with the file and line where it is written.

Gin itself would bind as it parses, and raise before the line is known.
"""

import dataclasses
import json
import re
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gin import config_parser

from ..api.errors import ConfigError, did_you_mean
from .bindings import MACRO, Binding, Table, fields, lookup
from .modules import Importing, import_module
from .saving import unwritable
from .values import Macro, Reference, leaves

ROOT = Path(__file__).resolve().parents[2] / "gin_configs"
EXPERIMENTS = "experiments"  # the folder of those that can be run
RENAMED = ROOT / "renamed.json"  # names of earlier versions -> those of now


@dataclasses.dataclass
class Read:
  """What has been read of a configuration so far."""

  importing: Importing
  table: Table = dataclasses.field(default_factory=dict)
  files: set[Path] = dataclasses.field(default_factory=set)
  imports: set[str] = dataclasses.field(default_factory=set)  # statements


def experiments() -> list[str]:
  """Lists the packaged configurations that can be run."""
  return [name.removesuffix(".gin") for name in _packaged() if name.startswith(f"{EXPERIMENTS}/")]


def _packaged() -> list[str]:
  return sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.gin"))


def find(config: str) -> Path:
  """Finds a gin file: by its path, then among those that are packaged.

  Raises:
    ConfigError: there is none; the message names one that is near.
  """
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


def read_file(path: Path, read: Read) -> None:
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
  for statement, where in statements(text, lambda line: f"{path}:{line}"):
    if isinstance(statement, config_parser.IncludeStatement):
      _include(statement.filename, where, path.parent, read)
    elif isinstance(statement, config_parser.ImportStatement):
      if statement.module.startswith("__gin__"):
        raise ConfigError(f"{where}: gin's dynamic registration is not supported; use @register.")
      import_module(statement.module, where, path.parent, read.importing)
      read.imports.add(statement.format())
    else:
      read_statement(statement, where, read.table)


def _include(name: str, where: str, folder: Path, read: Read) -> None:
  """Reads a file that is included, from this folder or those that are packaged."""
  found = [p for p in (folder / name, ROOT / name) if p.is_file()]
  if not found:
    near = did_you_mean(name, _packaged())
    if now := _renamed(_experiment(name)):
      near = f" Write include '{now[0]}.gin', and below it: {'; '.join(now[1:])}"
    raise ConfigError(f"{where}: no file '{name}' in {folder} or {ROOT}.{near}")
  read_file(found[0], read)


def read_bind(text: str, read: Read) -> None:
  """Reads bindings and includes that stand on a command line."""
  where = f"--bind '{text}'"
  written = [statement for statement, _ in statements(text, lambda _: where)]
  known = config_parser.BindingStatement, config_parser.IncludeStatement
  if not written or not all(isinstance(s, known) for s in written):
    raise ConfigError(f"{where}: write 'component.parameter = value' or 'macro = value'.")
  for statement in written:
    if isinstance(statement, config_parser.IncludeStatement):
      _include(statement.filename, where, Path(), read)
    else:
      read_statement(statement, where, read.table)


def statements(text: str, where: Callable[[int], str]) -> Iterator[tuple[Any, str]]:
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


def read_statement(statement: Any, where: str, table: Table) -> None:
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

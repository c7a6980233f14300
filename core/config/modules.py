"""Modules that configurations import: where they are looked for, and that each has its own.

One process may load configurations of several projects, and Python keeps modules by name alone.
"""

import importlib
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.machinery import PathFinder
from pathlib import Path

from ..api import registry
from ..api.errors import ConfigError

Importing = Callable[[str, Sequence[Path]], Sequence[Path]]

_added: set[str] = set()  # folders that configurations have put on Python's path


def search_path(folders: Iterable[Path]) -> list[str]:
  """Returns where Python looks, and then these folders: not those of other configurations."""
  own = [place for place in sys.path if place not in _added]
  # At the end: a module beside a gin file takes no library's place.
  return list(dict.fromkeys([*own, *map(str, folders)]))


def clash(module: str, path: Sequence[str]) -> tuple[str, str] | None:
  """Returns the file of a module on a path, and that of another one which has its name already.

  Args:
    module: its name, with the packages that it is in.
    path: where it is looked for.

  Returns:
    Both, or None: it is not imported yet, or it is that one; or it is not on the path.
  """
  places: Sequence[str] | None = path
  name = ""
  for part in module.split("."):
    name = f"{name}.{part}".lstrip(".")
    known = sys.modules.get(name)
    if known is None or places is None:
      return None
    spec = PathFinder.find_spec(name, places)
    loaded = getattr(known, "__file__", None)  # built-in modules and namespaces have none
    if loaded and spec and spec.has_location and spec.origin:
      if Path(loaded).resolve() != Path(spec.origin).resolve():
        return spec.origin, loaded
    places = getattr(known, "__path__", None)
  return None


def import_module(module: str, where: str, folder: Path, importing: Importing) -> None:
  """Imports a module that is installed, beside a gin file or in the current folder.

  Args:
    module: its name.
    where: the statement is, for messages.
    folder: of the gin file.
    importing: see `loading.load`.

  Raises:
    ConfigError: it cannot be imported, or another one of its name is there already.
  """
  path = search_path(importing(module, (folder.resolve(), Path.cwd())))
  _added.update(place for place in path if place not in sys.path)
  # Before the folders of earlier configurations: what the module imports in turn is found there.
  sys.path[:] = dict.fromkeys([*path, *sys.path])
  if files := clash(module, path):
    wanted, loaded = files
    raise ConfigError(
      f"{where}: import {module} means {wanted}, but this process has imported {loaded} by that "
      "name: start a new process, or rename one."
    )
  try:
    with registry.foreign_code():
      importlib.import_module(module)
  except Exception as error:  # whatever a module may raise
    reason = str(error).partition("\n")[0] or type(error).__name__
    # The module itself is missing, and not one that it imports in turn.
    if f"No module named '{module.split('.')[0]}'" in reason:
      reason += f". Put it into {folder} or the current folder, or its folder on PYTHONPATH."
    raise ConfigError(f"{where}: cannot import {module}: {reason}") from error

"""Trust in code of a workdir: modules that its configuration imports run when it is only scored.

A workdir may come from someone else, and a module in it with it.
"""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from ..api.errors import UserError
from ..config import modules


def admit(
  module: str, folders: Sequence[Path], workdir: Path, config: Path, trusted: bool
) -> list[Path]:
  """Says on stderr which module is about to be imported, or refuses it.

  Args:
    module: its name.
    folders: where modules are looked for beside where Python looks.
    workdir: of the run.
    config: names the module.
    trusted: what lies in the workdir may be run.

  Returns:
    Those of the folders where it, and what it imports in turn, may be looked for.

  Raises:
    UserError: the module lies in the workdir, which is not trusted.
  """
  top = workdir.resolve()  # a symbolic link must not make an inside look like an outside
  inside = lambda place: place.resolve().is_relative_to(top)
  allowed = [folder for folder in folders if trusted or not inside(folder)]
  name, path = module.partition(".")[0], modules.search_path(folders)
  clash = modules.clash(module, path)
  # Its code has run already; to import it again runs nothing.
  if name in sys.modules and not clash:
    return allowed
  # Looked for and not imported: for a name without a dot, this runs no code.
  spec = PathFinder.find_spec(name, path) or importlib.util.find_spec(name)
  for place in _places(spec):
    if inside(place) and not trusted:
      raise UserError(
        f"{config} imports '{module}', which lies in the workdir itself ({place}) and is code of "
        "whoever made it. Read it, then let it run: --trust, of selftune eval and report."
      )
    if not clash:  # one that clashes is about to be refused
      print(f"selftune: {config} imports {module} from {place}", file=sys.stderr)
  return allowed


def _places(spec: ModuleSpec | None) -> list[Path]:
  """Lists the file of a module, or the folders of a package without one; none if not found."""
  if spec is None:
    return []
  if spec.has_location and spec.origin:
    return [Path(spec.origin)]
  return [Path(folder) for folder in spec.submodule_search_locations or ()]

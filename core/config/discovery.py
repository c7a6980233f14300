"""Discovery of all that gin can build: core's own classes, packaged plugins, and third parties'."""

import importlib
import importlib.metadata
import pkgutil

from ..api import registry

ENTRY_POINTS = "selftune.plugins"  # third parties: name = "module.to.import"

_loaded: set[str] = set()


def load_all() -> None:
  """Imports core's own configurables, every plugin in this package, and those of entry points.

  A plugin that cannot be imported is noted in `registry.unavailable()`, and the others go on. A
  module whose name starts with an underscore holds no plugin: those that use it import it.
  """
  # Core's own come first: of two classes of one name the registry refuses the later one, which is
  # then a plugin. The dots count from this module, which is given as if it were a package.
  importlib.import_module("...experiment", __name__)
  package = importlib.import_module("....plugins", __name__)
  # The walk itself imports each package, after `_load` has tried it and noted what it raised.
  # Without `onerror`, whatever is no ImportError would end the walk there.
  for info in pkgutil.walk_packages(
    package.__path__, f"{package.__name__}.", onerror=lambda _: None
  ):
    if not info.name.rpartition(".")[2].startswith("_"):
      _load(info.name, info.name)
  for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
    _load(f"{entry.name} ({entry.value})", entry.value.partition(":")[0].strip())


def _load(label: str, module: str) -> None:
  if module in _loaded:
    return
  _loaded.add(module)  # before the import: one that fails is not tried, and told of, again
  try:
    with registry.foreign_code():
      importlib.import_module(module)
  except Exception as error:  # a plugin may fail in any way; the others must go on
    registry.lost(label, module, f"{type(error).__name__}: {error}")

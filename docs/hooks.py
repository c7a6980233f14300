"""For mkdocs: the API reference is read from a folder that is named as the package is."""

import tempfile
from pathlib import Path
from typing import Any

from mkdocs.plugins import event_priority

ROOT = Path(__file__).resolve().parents[1]
_PACKAGE = tempfile.TemporaryDirectory(prefix="selftune-docs-")


@event_priority(100)  # before mkdocstrings reads its configuration
def on_config(config: Any) -> Any:
  """Points mkdocstrings to links to the checkout, whose own name may be any."""
  package = Path(_PACKAGE.name, "selftune")
  if not package.exists():  # `mkdocs serve` comes here more than once
    package.mkdir()
    for name in ("__init__.py", "core", "plugins"):
      (package / name).symlink_to(ROOT / name)
  config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [_PACKAGE.name]
  return config

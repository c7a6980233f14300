"""Registry of plugins."""

from collections.abc import Callable

KINDS = ("env", "network", "corrector", "loss", "optimizer", "metaopt", "writer")
_PLUGINS: dict[str, dict[str, type]] = {kind: {} for kind in KINDS}


def register(kind: str, name: str) -> Callable[[type], type]:
  """Decorator: registers a frozen dataclass as plugin `name` of `kind`, and with gin."""

  def decorate(cls: type) -> type:
    _PLUGINS[kind][name] = cls
    return cls

  return decorate

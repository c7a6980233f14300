"""`selftune plugins`: what a configuration can be made of."""

import dataclasses
from typing import Any

from .. import config
from ..api import registry
from ..api.errors import UserError, did_you_mean
from ..config import discovery

PART = "part"  # what this list calls the parts of core that are no plugins: train, agent, ...
KINDS = (*registry.KINDS, PART)


def find(kind: str | None = None) -> dict[str, Any]:
  """Finds every plugin, or those of a kind, and why others are unavailable; as JSON has it.

  Defaults are text, as gin writes them; None where a value is needed.

  Raises:
    UserError: there is no such kind.
  """
  if kind not in (None, *KINDS):
    hint = did_you_mean(kind, KINDS)
    raise UserError(f"there is no kind of plugin '{kind}'.{hint} Kinds: {', '.join(KINDS)}.")
  discovery.load_all()
  parts = {n: cls for n, cls in registry.configurables().items() if registry.kind_of(n) is None}
  plugins = {
    name: [_plugin(*item) for item in classes.items()]
    for name, classes in {**registry.plugins(), PART: parts}.items()
    if kind in (None, name)
  }
  return {"plugins": plugins, "unavailable": registry.unavailable()}


def text(found: dict[str, Any]) -> str:
  """Returns lines to read: with all settings where it is one kind, else with tunable ones."""
  lines = []
  for kind, plugins in found["plugins"].items():
    lines.append(f"{kind}:{'' if plugins else ' none'}")
    for plugin in plugins:
      lines.append(f"  @{plugin['name']}(): {plugin['doc']}")
      shown = (s for s in plugin["settings"] if s["tunable"] or len(found["plugins"]) == 1)
      lines += (f"    {_line(setting)}" for setting in shown)
  lines += (f"unavailable: {module}: {why}" for module, why in found["unavailable"].items())
  return "\n".join(lines)


def _plugin(name: str, cls: type) -> dict[str, Any]:
  settings = [_setting(name, field) for field in config.fields(name).values()]
  doc = (cls.__doc__ or "").strip().partition("\n")[0]
  return {"name": name, "doc": doc, "settings": settings}


def _setting(component: str, field: dataclasses.Field) -> dict[str, Any]:
  domain, symbol = field.metadata.get("tunable", (None, ""))
  default = config.default(field)
  return {
    "name": f"{component}.{field.name}",
    "default": None if default is dataclasses.MISSING else repr(default),
    "tunable": domain and {"domain": domain.name, "symbol": symbol},
  }


def _line(setting: dict[str, Any]) -> str:
  name, default, tunable = setting["name"], setting["default"], setting["tunable"]
  line = f"{name}: needed" if default is None else f"{name} = {default}"
  if tunable is None:
    return line
  # `rstrip` drops the blank before the colon where a number has no symbol.
  return f"{line}  (tunable {tunable['symbol']}".rstrip() + f": {tunable['domain']})"

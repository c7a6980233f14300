"""Saving of a configuration as text that loads back equal.

Not by gin's own writer: that sorts dicts, whose order says in `runs.settings` which run is which,
and leaves out what it cannot write.
"""

import math
import pprint
from collections.abc import Iterable, Mapping
from typing import Any

from .values import leaves

WIDTH = 80  # of lines, where values can be broken
INDENT = 4

Bindings = Mapping[str, Mapping[str, Any]]  # 'scope/component' -> parameter -> value


def unwritable(value: Any) -> str:
  """Says why a value would not come back from a file, and what to write instead; '' if it would."""
  for leaf in leaves(value):
    if isinstance(leaf, float) and not math.isfinite(leaf):
      return f"{leaf} is no number that a configuration can hold. Write a finite one, such as 1e30"
    # NumPy has no integer type beyond 64 bits, and Python does not print thousands of digits.
    if type(leaf) is int and not -(2**63) <= leaf < 2**63:
      return "a whole number has at most 63 bits. Write it with an exponent, such as 1e30"
  return ""


def write(imports: Iterable[str], macros: Mapping[str, Any], bindings: Bindings) -> str:
  """Returns a configuration's text: imports, macros, and the bindings of each component by name."""
  blocks = ["\n".join(imports), "\n".join(_line(*macro) for macro in sorted(macros.items()))]
  # By component and then by scope, so that `a/gae` stands beside `gae`.
  for name, values in sorted(bindings.items(), key=lambda item: item[0].split("/")[::-1]):
    lines = [_line(f"{name}.{parameter}", value) for parameter, value in sorted(values.items())]
    blocks += ["\n".join([f"# {name}", *lines])] if lines else []
  return "\n\n".join(filter(None, blocks)) + "\n"


def _line(name: str, value: Any) -> str:
  """Returns one binding as text, broken over lines where it is long."""
  written = pprint.pformat(value, width=WIDTH - INDENT, sort_dicts=False)
  if "\n" not in written and len(name) + len(written) <= WIDTH:
    return f"{name} = {written}"
  # One backslash will do: pprint breaks lines inside brackets, which gin reads across lines.
  return f"{name} = \\\n" + "\n".join(" " * INDENT + line for line in written.splitlines())

"""YAML as W&B reads it, with gin's numbers, and within limits."""

import os
import re
from pathlib import Path
from typing import Any

import yaml

from .. import config
from ..api.errors import UserError, did_you_mean, shortened

MOST = 10**5  # entries of a file, those that aliases repeat counted again


def find(name: str, kind: str) -> Path:
  """A YAML file, by its path or the name of a packaged one.

  Args:
    name: such as `my.yaml` or `sweeps/catch_stac_discount`.
    kind: what it is to be, `sweep` or `study`; packaged ones lie in a folder of that name.

  Raises:
    UserError: there is none.
  """
  # The user's own file comes first, even under the name of a packaged one.
  for path in (Path(name), config.ROOT / name, config.ROOT / f"{name}.yaml"):
    if os.path.isfile(path):  # Path.is_file raises where a name is too long
      return path
  folder = {"sweep": "sweeps", "study": "studies"}[kind]
  known = [f"{folder}/{path.stem}" for path in sorted(config.ROOT.glob(f"{folder}/*.yaml"))]
  raise UserError(f"no {kind} '{name}'.{did_you_mean(name, known)} Packaged: {', '.join(known)}.")


def read(path: Path) -> Any:
  """What a YAML file holds.

  Raises:
    UserError: it cannot be read, says a key twice, or grows beyond limits by its aliases.
  """
  try:
    loader = _Loader(path.read_text(encoding="utf-8-sig"))
    node = loader.get_single_node()
    # Entries are counted before any is built: aliases of aliases let a few lines hold billions.
    if _entries(node, {}) > MOST:
      raise UserError(f"it has more than {MOST:,} entries, or an alias within itself.")
    return loader.construct_document(node)
  except UserError as error:
    raise UserError(f"cannot read {path}: {error}") from None
  except Exception as error:  # PyYAML's own, and KeyError and others where a tag is a wrong one
    raise UserError(f"cannot read {path}: {shortened(str(error) or repr(error))}") from None


class _Loader(yaml.SafeLoader):
  """Takes 1e-5 for a number, as gin does: YAML 1.1 takes it for text, and wants 1.0e-5."""


_Loader.add_implicit_resolver(
  "tag:yaml.org,2002:float",
  re.compile(r"[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$"),
  list("-+.0123456789"),  # what it can begin with: YAML asks a resolver by the first character
)


def _entries(node: yaml.Node | None, known: dict[int, float]) -> float:
  """How many there are in a node and below it; infinitely many where it holds itself."""
  if id(node) not in known:
    # A node under count is infinite, and so is the sum of one that holds itself.
    known[id(node)] = float("inf")
    children = getattr(node, "value", None)
    if isinstance(node, yaml.MappingNode):
      _check_keys(node)
      children = [child for pair in node.value for child in pair]
    inner = children if isinstance(children, list) else ()
    # An alias is the node itself, so `known` keeps the work linear while the count may explode.
    known[id(node)] = 1 + sum(_entries(child, known) for child in inner)
  return known[id(node)]


def _check_keys(node: yaml.MappingNode) -> None:
  # PyYAML would keep the last of equal keys. The tag tells the number 1 from the text '1'.
  seen = set()
  for key, _ in node.value:
    if isinstance(key, yaml.ScalarNode):
      if (key.tag, key.value) in seen:
        raise UserError(f"'{key.value}' is there twice, also in line {key.start_mark.line + 1}.")
      seen.add((key.tag, key.value))

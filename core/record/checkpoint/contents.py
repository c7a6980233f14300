"""The contents of a checkpoint in Orbax's files: arrays by their path in the state; a document.

The document is JSON: the host's counters, and shape, dtype and CRC-32 of every array. Orbax notices
files that are missing or short, but not every changed byte: hence the sums.
"""

import contextlib
import functools
import json
import logging
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from ...api.types import PyTree


class Entry(NamedTuple):
  """The document's entry on one array."""

  shape: list[int]  # of the data; a typed key's data has one axis more than the key
  dtype: str
  crc32: int
  impl: str | None  # of a typed key, else None


@functools.cache
def orbax() -> Any:
  """Imports Orbax at first use (0.6 s), without its log: what matters of it is raised.

  After one read or write has failed, the others that were under way have nobody to report to, and
  each would print a traceback: by asyncio's log, or as an exception of a callback.
  """
  import orbax.checkpoint as ocp

  for name in ("absl", "asyncio"):
    logging.getLogger(name).addFilter(lambda it: "orbax" not in it.pathname + it.getMessage())
  show = sys.unraisablehook
  sys.unraisablehook = lambda it: None if str(it.exc_value) == "Event loop is closed" else show(it)
  return ocp


def flatten(tree: PyTree) -> dict[str, Any]:
  """Returns the leaves of a tree, of any shape [...], by their path: `params['torso']['w']`."""
  leaves, _ = jax.tree.flatten_with_path(tree)
  return {jax.tree_util.keystr(path).removeprefix("."): leaf for path, leaf in leaves}


def packed(state: PyTree, host: Mapping[str, Any]) -> Any:
  """Packs a state and the host's counters as Orbax saves them; views of the state's memory.

  Args:
    state: a tree of arrays [...].
    host: the counters.
  """
  arrays, entries = _to_host(state)
  described = {name: entry._asdict() for name, entry in entries.items()}
  document = {"host": host, "arrays": described}
  # Counters have no sum but this: a digit that changed on the disk would still be JSON.
  document["crc32"] = _document_crc32(document)
  ocp = orbax()
  return ocp.args.Composite(
    state=ocp.args.StandardSave({name: a for name, a in arrays.items() if a.size}),
    document=ocp.args.JsonSave(document),
  )


def to_device(array: np.ndarray, entry: Entry, like: Any) -> jax.Array:
  """Moves an array [...] that was read to where `like` is or is to be."""
  if entry.impl is None:
    return jax.device_put(array, like.sharding)
  return jax.random.wrap_key_data(jax.device_put(array, like.sharding), impl=entry.impl)


def first_difference(entries: dict[str, Entry], wanted: dict[str, Any]) -> str:
  """Says which leaf is the first to differ between checkpoint and state; "" if none does."""
  for name, leaf in wanted.items():
    if name not in entries:
      return f"it has no {name}"
    data = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
    here = f"{leaf.dtype}{list(data.shape)}"
    there = f"{entries[name].dtype}{entries[name].shape}"
    if here != there:
      return f"{name} is {there} there and {here} here"
  return next((f"it has {name} besides" for name in entries if name not in wanted), "")


def read_document(directory: Path, step: int) -> tuple[dict[str, Any], dict[str, Entry]]:
  """Reads the document of a checkpoint: the host's counters, and an entry on each array.

  Raises:
    Exception: it is torn, in whatever way.
  """
  ocp = orbax()
  document = _read(directory, step, document=ocp.args.JsonRestore())["document"]
  if document["crc32"] != _document_crc32(document):
    raise ValueError("the document does not match its checksum")
  entries = {name: Entry(**entry) for name, entry in document["arrays"].items()}
  return document["host"], entries


def read_arrays(directory: Path, step: int, entries: dict[str, Entry]) -> dict[str, np.ndarray]:
  """Reads the arrays of these entries, [...] each, by path; raises as `read_document`."""
  ocp = orbax()
  arrays = _read(directory, step, state=ocp.args.StandardRestore())["state"]
  for name, entry in entries.items():
    if 0 in entry.shape:  # Orbax does not store empty arrays
      arrays[name] = np.zeros(entry.shape, np.uint32 if entry.impl else entry.dtype)
    if _crc32(arrays[name]) != entry.crc32:
      raise ValueError(f"{name} does not match its checksum")
  return arrays


def _to_host(state: PyTree) -> tuple[dict[str, np.ndarray], dict[str, Entry]]:
  """Copies a state to the host, by path, with an entry on each array."""
  leaves = flatten(state)
  # Orbax saves no typed keys: their words, and the name of the generator in the entry.
  data = {name: jax.random.key_data(x) if _is_key(x) else x for name, x in leaves.items()}
  # What is split over processes they give each other: each then has the whole.
  arrays = jax.device_get(
    {
      name: x if x.is_fully_replicated else multihost_utils.process_allgather(x, tiled=True)
      for name, x in data.items()
    }
  )
  entries = {}
  for name, leaf in leaves.items():
    impl = str(jax.random.key_impl(leaf)) if _is_key(leaf) else None
    array = arrays[name]
    entries[name] = Entry(list(array.shape), str(leaf.dtype), _crc32(array), impl)
  return arrays, entries


def _is_key(leaf: Any) -> bool:
  return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _read(directory: Path, step: int, **items: Any) -> Any:
  ocp = orbax()
  # Read-only: an evaluation reads a folder that a run writes to, and must change nothing in it.
  options = ocp.CheckpointManagerOptions(read_only=True)
  with contextlib.closing(ocp.CheckpointManager(directory, options=options)) as reader:
    return reader.restore(step, args=ocp.args.Composite(**items))


def _crc32(array: np.ndarray) -> int:
  # As bytes [N]: a buffer of bfloat16 has no format that zlib knows, one of 0-d none to view.
  return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _document_crc32(document: Mapping[str, Any]) -> int:
  """Computes the CRC-32 of the document without its own `crc32`."""
  content = {key: value for key, value in document.items() if key != "crc32"}
  return zlib.crc32(json.dumps(content, sort_keys=True).encode())

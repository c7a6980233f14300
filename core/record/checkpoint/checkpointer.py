"""The checkpointer of a run: saves the whole state of training; asynchronous, atomic, verified.

A checkpoint is a directory `<directory>/<update>`, which Orbax writes under a temporary name and
renames once it is whole. It does not sync to the disk before the rename, so the newest may still be
torn after a crash of the machine: then the one before serves.
"""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from ...api import files
from ...api.errors import RunError, UserError
from ...api.types import PyTree
from ...machine import hosts
from . import failures
from .contents import (
  first_difference,
  flatten,
  orbax,
  packed,
  read_arrays,
  read_document,
  to_device,
)

_STEP = re.compile("0|[1-9][0-9]*")  # a checkpoint's name
_GIVEN_UP = ".given-up"  # behind the name of a checkpoint that no run goes on from
_SCHEME = re.compile("[a-z][a-z0-9+.-]+:")  # what an address, such as gs://bucket, begins with


class Restored(NamedTuple):
  """A checkpoint, read and verified."""

  step: int  # updates made
  state: PyTree
  host: dict[str, Any]
  note: str  # one line for the user if newer checkpoints are damaged, else ""


class Checkpointer:
  """The checkpoints of one run, named by the number of updates made.

  One job writes: all of its processes call `save` and `restore` alike, in a directory that they
  share. Others may restore meanwhile. Nothing is created before the first `save`.
  """

  def __init__(self, directory: Path, max_to_keep: int = 3, keep_every: int | None = None):
    """Takes the folder of the checkpoints.

    Args:
      directory: of the checkpoints; need not be there.
      max_to_keep: the newest so many are kept.
      keep_every: of the rest the first is kept, and one every so many updates; None keeps none.

    Raises:
      UserError: too few are kept, or Orbax could not read them back from such a folder.
    """
    if max_to_keep < 2:
      raise UserError(
        f"max_to_keep = {max_to_keep}: keep 2 checkpoints or more, so that one which a crash "
        "damaged leaves another"
      )
    self.directory = Path(directory).absolute()
    _check_name(self.directory)
    self._max_to_keep, self._keep_every = max_to_keep, keep_every
    self._writer: Any = None  # the Orbax CheckpointManager, while saving
    self._last: int | None = None  # the newest update that this object restored or saved

  def save(self, step: int, state: PyTree, host: Mapping[str, Any]) -> None:
    """Starts to write a checkpoint; returns when `state` may be donated and `host` changed.

    An update that has a checkpoint already is left alone.

    Args:
      step: updates made.
      state: a tree of arrays [...], on devices of any process of the job.
      host: counters of the host, as JSON has them.

    Raises:
      RunError: this checkpoint cannot be written, or the previous one could not.
      UserError: the directory holds checkpoints that were not restored.
      TypeError: `host` is not JSON.
    """
    self.wait()  # one at a time: a disk that is too slow shows here, not as memory that fills
    host = json.loads(json.dumps(dict(host)))  # a copy, and fails here if it must
    writer = self._writer or self._open_writer(step)
    # The first process's view counts: a shared disk may show the others an older listing.
    if hosts.first_says(step in self.all_steps()):
      return
    what = packed(state, host)
    # Noted before it is written: a failure that `wait` meets later is told as this update's.
    self._last = step
    with self._failures_explained(step):
      # Orbax copies NumPy arrays before it returns, so views of the device's memory are safe here.
      saved = writer.save(step, args=what)
    if not saved:
      raise ValueError(f"update {step} comes before the last one saved, {self.all_steps()[-1]}")

  def restore(self, like: PyTree, step: int | None = None, only: str = "") -> Restored | None:
    """Reads the newest checkpoint that is whole, or that of `step`.

    After this, the next `save` renames the checkpoints newer than the one restored: they are
    damaged, or were given up by asking for an older one.

    Args:
      like: gives structure, shapes [...], dtypes and shardings: concrete arrays, or
        `jax.ShapeDtypeStruct`.
      step: the update; None for the newest whole one.
      only: arrays whose path begins with this are read; in place of the others, those of `like` are
        returned.

    Returns:
      The checkpoint; None if there are none at all.

    Raises:
      UserError: every checkpoint is damaged; there is none of `step`; it is of another agent; or
        the machine cannot read it now, which is no damage.
    """
    # What is still being written comes first: it may be the newest whole one.
    self.close()
    steps = self.all_steps()
    if step is not None and step not in steps:
      raise UserError(f"no checkpoint of update {step} in {self.directory}: there are {steps}")
    if not steps:
      return None
    leaves = flatten(like)
    wanted = {name: leaf for name, leaf in leaves.items() if name.startswith(only)}
    damaged = []
    for candidate in reversed(steps) if step is None else [step]:
      path = self.directory / str(candidate)
      try:
        # The document first: a difference is told before gigabytes are read.
        host, entries = read_document(self.directory, candidate)
        entries = {name: entry for name, entry in entries.items() if name.startswith(only)}
        difference = first_difference(entries, wanted)
        arrays = {} if difference else read_arrays(self.directory, candidate, entries)
      except Exception as error:  # a torn file may raise anything: in Orbax, JSON or the sums
        # Evaluation reads beside training: what vanished while it was read is no damage.
        if self.all_steps() != steps:  # a run has saved, and removed old ones, meanwhile
          return self.restore(like, step, only)
        failures.check_machine(path, error)
        damaged.append(f"{path} ({failures.reason(error)})")
        continue
      if difference:  # no older one can fit better: say so, instead of going back to it
        raise UserError(f"{path} was written by another agent: {difference}")
      leaves |= {name: to_device(arrays[name], entries[name], x) for name, x in wanted.items()}
      self._last = candidate
      note = f"damaged: {', '.join(damaged)}; going back to update {candidate}" if damaged else ""
      state = jax.tree.unflatten(jax.tree.structure(like), leaves.values())
      return Restored(candidate, state, host, note)
    raise UserError("no checkpoint is whole: " + ", ".join(damaged))

  def all_steps(self) -> list[int]:
    """Lists the updates that have a checkpoint, ascending; damaged ones too, unfinished ones not.

    Whatever else lies in the directory is passed over.

    Raises:
      UserError: the directory cannot be read.
    """
    try:
      with os.scandir(self.directory) as entries:
        return sorted(int(it.name) for it in entries if _STEP.fullmatch(it.name) and it.is_dir())
    except (FileNotFoundError, NotADirectoryError):
      return []
    except OSError as error:
      raise files.cannot_read(self.directory, error) from error

  def wait(self) -> None:
    """Waits until what was saved is on the disk.

    Raises:
      RunError: it could not be written.
    """
    if self._writer is not None:
      with self._failures_explained(self._last):
        self._writer.wait_until_finished()

  def close(self) -> None:
    """Waits, and ends the writing threads; `save` and `restore` may still be called."""
    self.wait()
    if self._writer is not None:
      self._writer.close()
      self._writer = None

  def _open_writer(self, step: int) -> Any:
    """Opens Orbax for writing, and sets the checkpoints aside that were given up."""
    # All of them if nothing was restored: then they are another run's.
    newer = [old for old in self.all_steps() if self._last is None or old > self._last]
    if newer and self._last is None:
      raise UserError(
        f"{self.directory} holds checkpoints of another run, up to update {newer[-1]}: go on "
        "with it by --resume, or choose another --workdir"
      )
    ocp = orbax()
    kept: Any = ocp.checkpoint_managers.LatestN(self._max_to_keep)
    if self._keep_every is not None:
      every = ocp.checkpoint_managers.EveryNSteps(self._keep_every, exact_interval=False)
      kept = ocp.checkpoint_managers.AnyPreservationPolicy([kept, every])
    with self._failures_explained(step):
      # The folder is shared: what one process renames is renamed for all.
      for old in newer if hosts.is_first() else ():
        _give_up(self.directory / str(old))
      self._writer = ocp.CheckpointManager(
        self.directory,
        options=ocp.CheckpointManagerOptions(
          preservation_policy=kept,
          cleanup_tmp_directories=True,  # what a killed or failed save left
          # Else threads that wait for a folder which cannot be made outlive the failure by minutes.
          async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
        ),
      )
    return self._writer

  @contextlib.contextmanager
  def _failures_explained(self, step: int | None) -> Iterator[None]:
    """Turns what Orbax raises into a RunError; the next save starts with a new writer."""
    try:
      yield
    except Exception as error:
      writer, self._writer = self._writer, None
      if writer is not None:
        with contextlib.suppress(Exception):  # its threads end; the error is known already
          writer.close()
      reason = failures.reason(error)
      raise RunError(
        f"cannot write the checkpoint of update {step} in {self.directory}: {reason}. "
        f"Checkpoints that are there: {self.all_steps() or 'none'}"
      ) from error


def _check_name(directory: Path) -> None:
  """Refuses addresses, and folders from which Orbax could not read back what it wrote to them.

  Raises:
    UserError: says what is wrong with the name.
  """
  name, kept = str(directory), f"{directory}: checkpoints are kept in folders"
  if address := [part for part in directory.parts[:-1] if _SCHEME.fullmatch(part)]:
    raise UserError(f"{kept}, and {address[0]}// begins an address: mount it, and give its folder.")
  if wrong := [character for character in "[\\" if character in name]:
    raise UserError(f"{kept}, and not read back from one with {wrong[0]} in it: choose another.")
  try:
    name.encode()
  except UnicodeEncodeError:
    raise UserError(f"{kept} whose names are UTF-8, which this is not: choose another.") from None


def _give_up(path: Path) -> None:
  """Gives a checkpoint a name that no reader takes for one, and keeps what it holds."""
  kept = path.with_name(path.name + _GIVEN_UP)
  # What was given up before at this update: no folder is renamed to one with files in it.
  shutil.rmtree(kept, ignore_errors=True)
  path.rename(kept)

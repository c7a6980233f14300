"""The folder of one run: its configs, `restarts.jsonl`, logs and checkpoints."""

import contextlib
import os
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from .. import config
from ..api import files, registry
from ..api.errors import UserError
from ..api.resuming import is_resumable
from ..machine import hosts, lock
from . import aside, starts, trust
from .checkpoint import Checkpointer, Restored


def locate(text: str) -> tuple[Path, int | None]:
  """Parses PATH[@STEP]: the folder of checkpoints, and the update; None for the newest whole one.

  PATH is a workdir, its `checkpoints`, or one of those.
  """
  name, at, step = text.rpartition("@")
  # The last @, and digits behind it alone: a folder may have an @ in its name.
  of_step = at and step.isdecimal() and not os.path.isdir(text)  # a folder may have such a name
  path, number = (Path(name), int(step)) if of_step else (Path(text), None)
  if number is None and path.name.isdecimal() and path.parent.name == "checkpoints":
    path, number = path.parent, int(path.name)
  return (path if path.name == "checkpoints" else path / "checkpoints"), number


def default(config: str, seed: int) -> Path:
  """Returns the folder of a run that is given none: runs/<config>_seed<seed>.

  Under a W&B agent it is runs/<config>_<its run's id>: the points of a sweep may share a seed.
  """
  name = Path(config).name.removesuffix(".gin")
  by_agent = "WANDB_SWEEP_ID" in os.environ and os.environ.get("WANDB_RUN_ID")
  return Path("runs", f"{name}_{by_agent or f'seed{seed}'}")


class Workdir:
  """The folder of one run; nothing is created before `create`."""

  def __init__(self, path: Path, trusted: bool = False):
    """Takes the folder as it is, or is to be.

    Args:
      path: where it is.
      trusted: modules that lie in it may be imported, if its configuration says so.
    """
    self.path = path
    self._trusted = trusted
    self.checkpoints = path / "checkpoints"
    self.curves = path / "curves.png"
    self.videos = path / "videos"
    self.done = path / "done"  # an empty file, made by `core.train.finish`
    self._config = path / "config.gin"
    self._restarts = path / starts.FILE

  def holds_run(self) -> bool:
    """Says whether a run has been started here."""
    return os.path.exists(self._config)  # Path.exists raises where a folder may not be read

  @contextlib.contextmanager
  def alone(self) -> Iterator[Callable[[], None]]:
    """Keeps other jobs from training here; makes the folder, and removes it if it stays empty.

    Yields:
      A function that raises RunError if another process has taken over.

    Raises:
      UserError: another process trains here, or the folder cannot be written.
    """
    still_alone, refusal = lambda: None, None
    with contextlib.ExitStack() as stack:
      if hosts.is_first():
        try:
          still_alone = self._locked(stack).check
        except UserError as error:
          refusal = error
      hosts.none_refused(refusal)  # before anything else: the others would wait for the first
      yield still_alone

  def _locked(self, stack: contextlib.ExitStack) -> lock.Lock:
    """Takes the lock of this folder until the stack unwinds."""
    missing = [p for p in (self.path, *self.path.parents) if not os.path.exists(p)]
    # From the outermost inwards, as the stack unwinds the other way: an inner folder goes first.
    for folder in reversed(missing):
      stack.callback(_remove_if_empty, folder)
    try:
      self.path.mkdir(parents=True, exist_ok=True)
      advice = "wait until it has ended, or choose another folder."
      return stack.enter_context(lock.alone(self.path / "train.lock", advice))
    except OSError as error:
      advice = "" if error.errno in files.FULL else " Choose another --workdir."
      raise UserError(f"cannot write to {self.path}: {files.reason(error)}.{advice}") from error

  def load(self, modules: Sequence[str] = ()) -> config.Loaded:
    """Loads the configuration of the run.

    Args:
      modules: folders in which this process has found the modules of the same configuration.

    Raises:
      UserError: there is no run here, or it wants code of the workdir to be run.
    """
    whole = self.path.absolute().parent.parent
    if not self.holds_run() and self.path.absolute() == whole / "runs" / self.path.name:
      if Workdir(whole).holds_run():
        raise UserError(
          f"{self.path} holds the logs of one of many runs, trained as one program in {whole}: the "
          "checkpoint of all is there."
        )
    if not self._config.is_file():
      raise UserError(f"{self.path} holds no run: there is no {self._config.name} in it.")
    # Where its modules lay when it was trained: whoever loads it may be in another folder.
    then = [f for start in starts.read(self._restarts) for f in start.get("imports", ())]
    known = [Path(folder) for folder in (*modules, *reversed(then))]

    def importing(module: str, folders: Sequence[Path]) -> Sequence[Path]:
      places = (*known, *folders)
      return trust.admit(module, places, self.path, self._config, self._trusted)

    return config.load(self._config, importing=importing)

  def check(self, loaded: config.Loaded, resume: bool, varied: Collection[str] = ()) -> None:
    """Refuses to start over an earlier run, or to resume one of another configuration.

    Args:
      loaded: the configuration.
      resume: whether a run is to go on.
      varied: 'component.field' of what a population gives it other values of.

    Raises:
      UserError: says which, and what to do.
    """
    kept = self.checkpoints
    if os.path.lexists(kept) and not (os.path.isdir(kept) and os.access(kept, os.W_OK | os.X_OK)):
      raise UserError(f"cannot write to {kept}: mend or remove it, or choose another --workdir.")
    if self.holds_run() and not resume:
      raise UserError(
        f"{self.path} holds a run already: add --resume to go on with it, or choose another "
        "--workdir."
      )
    if checkpoints := Checkpointer(self.checkpoints).all_steps() if not resume else []:
      raise UserError(
        f"{self.checkpoints} holds checkpoints, up to update {checkpoints[-1]}, of a run whose "
        f"{self._config.name} is gone: choose another --workdir."
      )
    if resume and not self.holds_run():
      raise UserError(f"{self.path} holds no run to resume: leave out --resume to start one.")
    if resume:
      saved, wanted = identity(self.load(starts.folders(loaded.text))), identity(loaded)
      # Both ways: a setting that only one of them has is a difference, too.
      for name in sorted(saved.keys() | wanted.keys()):
        if name.split("/")[-1] not in varied and saved.get(name) != wanted.get(name):
          raise UserError(
            f"{self.path} is a run of another configuration: {name} is {saved.get(name)} there "
            f"and {wanted.get(name)} here. Resume with the same bindings, or choose another "
            "--workdir."
          )

  def restarts(self) -> int:
    """Counts the starts of the run so far, the first one too."""
    return starts.count(self._restarts)

  def env_seeds(self) -> set[int]:
    """Returns the seeds of all environments that the run has been trained in, over all starts."""
    return starts.env_seeds(self._restarts)

  def init_from(self) -> str | None:
    """Returns the checkpoint that gave the weights when the run last began from nothing, if any."""
    anew = [start for start in starts.read(self._restarts) if start.get("env_steps") == 0]
    return anew[-1].get("init_from") if anew else None

  def create(
    self,
    loaded: config.Loaded,
    seeds: Sequence[Sequence[tuple[int, ...]]],
    env_steps: int,
    weights: str | None = None,
    anew: bool = True,
  ) -> None:
    """Writes the configs, and a line on this start.

    Args:
      loaded: the configuration.
      seeds: of the environments, by pool, which begin anew at each start.
      env_steps: that the run has made before it.
      weights: the checkpoint that the first ones are from, if any.
      anew: there is no checkpoint that it goes on from: logs that are there are kept elsewhere.

    Raises:
      RunError: they cannot be written.
    """
    # Writers drop all that is beyond the checkpoint, which is everything where there is none.
    if anew and (kept := aside.set_aside(self.path)):
      print(f"selftune: the logs that were in {self.path} are kept in {kept}.", file=sys.stderr)
    files.write(self.path / "operative_config.gin", loaded.operative)
    # Last of the two: with this file the folder `holds_run`.
    files.write(self._config, loaded.text)
    start = {
      "env_steps": env_steps,
      "init_from": weights,
      "imports": starts.folders(loaded.text),
      "env_seeds": seeds,
    }
    starts.append(self._restarts, start)

  def say_resumed(self, resume: bool, restored: Restored | None) -> None:
    """Tells the user where a resumed run goes on, and what was damaged."""
    if restored is not None:
      note = f" {restored.note}" if restored.note else ""
      print(f"selftune: resuming at update {restored.step}.{note}", file=sys.stderr)
    elif resume:
      print(f"selftune: no checkpoint in {self.checkpoints}: starting anew.", file=sys.stderr)


def _remove_if_empty(folder: Path) -> None:
  with contextlib.suppress(OSError):
    folder.rmdir()


def identity(loaded: config.Loaded) -> dict[str, str]:
  """Returns the bindings that make a run what it is: all but those a resumed run may change."""
  return {name: str(value) for name, value in loaded.flat.items() if not _may_change(name)}


def _may_change(name: str) -> bool:
  """Says whether 'scope/component.field' may differ when a run goes on: all of a writer's may."""
  component, _, field = name.split("/")[-1].partition(".")
  cls = registry.configurables()[component]
  return registry.kind_of(component) == "writer" or is_resumable(cls, field)

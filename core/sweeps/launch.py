"""Where the points of a sweep are trained when each is a process: here, or by Ray.

Every process gets the pipe of its stdin from whoever started it, and ends when that closes.
"""

import contextlib
import logging
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from ..api import files
from ..api.errors import RunError, UserError, shortened
from ..api.subprocesses import python

GRACE = 60.0  # seconds in which a process that is asked to end may save
JOIN = 20.0  # seconds in which a Ray cluster must answer
POINT = f"from {__package__}.point import main; main()"


class Job(Protocol):
  """A point under way."""

  def poll(self) -> int | None: ...  # its exit code, once it has ended
  def stop(self) -> None: ...  # asks it to save and end


class Launcher(Protocol):
  """Starts points; `workers` is how many at a time."""

  workers: int

  def start(self, experiment: str, workdir: Path, bindings: Sequence[str]) -> Job: ...


class Processes:
  """Starts each point as a process on this machine."""

  def __init__(self, workers: int | None, lock: int):
    self.workers, self._lock = workers or 1, lock

  def start(self, experiment: str, workdir: Path, bindings: Sequence[str]) -> "_Process":
    return _Process(_spawn(experiment, workdir, bindings, [self._lock]))


class _Process:
  def __init__(self, process: subprocess.Popen):
    self._process = process

  def poll(self) -> int | None:
    return self._process.poll()

  def stop(self) -> None:
    self._process.terminate()


def import_ray() -> Any:
  """Ray.

  Raises:
    UserError: it is not installed.
  """
  try:
    import ray  # pyright: ignore[reportMissingImports]
  except ImportError as error:
    raise UserError(f"--launcher ray needs Ray ({error}): pip install 'selftune[ray]'") from None
  return ray


class Ray:
  """Starts each point as a task of one CPU, and of one GPU where the cluster has any.

  Joins the cluster that RAY_ADDRESS names, or starts one on this machine. The sweep's folder must
  be the same on all of its machines, and the current folder where it holds what is trained.

  Raises:
    RunError: there is no such cluster, or none could be started.
  """

  def __init__(self, workers: int | None):
    self._ray = ray = import_ray()
    address = os.environ.get("RAY_ADDRESS") or "local"
    if address != "local":
      _check_answers(address)
    try:
      ray.init(address, log_to_driver=False, logging_level=logging.ERROR, ignore_reinit_error=True)
    except Exception as error:  # of many types, by what is wrong
      raise RunError(f"Ray cannot be started: {shortened(str(error))}") from error
    has = ray.cluster_resources()
    gpus = 1 if has.get("GPU") else 0
    self._task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(_train)
    self.workers = workers or max(1, int(has.get("GPU" if gpus else "CPU", 1)))

  def start(self, experiment: str, workdir: Path, bindings: Sequence[str]) -> "_Task":
    arguments = experiment, str(workdir.absolute()), list(bindings), os.getcwd()
    return _Task(self._ray, self._task.remote(*arguments))


def _check_answers(address: str) -> None:
  """Joins a cluster in a process of its own: Ray tries for minutes, and says so in many lines.

  Raises:
    RunError: it could not be joined.
  """
  join = python(f"import ray; ray.init({address!r}, log_to_driver=False)")
  try:
    subprocess.run(
      join, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=JOIN, check=True
    )
  except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
    late = isinstance(error, subprocess.TimeoutExpired)
    last = (error.stderr or b"").decode(errors="replace").strip().split("\n")[-1]
    said = re.sub(r"^\[.*?\] ", "", last)  # without the time and the process
    raise RunError(
      f"RAY_ADDRESS={address}: the Ray cluster cannot be joined"
      f"{f' within {JOIN:.0f} seconds' if late else ''}: {shortened(said)}"
    ) from None


class _Task:
  def __init__(self, ray: Any, reference: Any):
    self._ray, self._reference = ray, reference

  def poll(self) -> int | None:
    ready, _ = self._ray.wait([self._reference], timeout=0)
    if not ready:
      return None
    try:
      return self._ray.get(self._reference)
    except self._ray.exceptions.RayError:  # its machine is gone, or it was cancelled
      return -1

  def stop(self) -> None:
    self._ray.cancel(self._reference)


def _train(experiment: str, workdir: str, bindings: list[str], folder: str) -> int:
  """What Ray runs: a process again, so that each point starts with a fresh JAX.

  It runs in the folder of the sweep, from where gin files are named, if this machine has that.
  """
  here = folder if os.path.isdir(folder) else None
  process = _spawn(experiment, Path(workdir), bindings, folder=here)
  try:
    return process.wait()
  finally:
    if process.poll() is None:
      process.terminate()
      with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)


def _spawn(
  experiment: str,
  workdir: Path,
  bindings: Sequence[str],
  keep: Sequence[int] = (),
  folder: str | None = None,
) -> subprocess.Popen:
  """Starts the process of a point, in a session of its own: Ctrl-C reaches the sweep alone."""
  files.make_folder(workdir)
  with (workdir / "log.txt").open("a", encoding="utf-8") as log:
    return subprocess.Popen(
      [*python(POINT), experiment, str(workdir), *bindings],
      cwd=folder,
      stdin=subprocess.PIPE,
      stdout=log,
      stderr=log,
      pass_fds=keep,
      start_new_session=True,
    )

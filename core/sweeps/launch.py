"""Where the points of a sweep are trained when each is a process: here, or by Ray.

Every process gets the pipe of its stdin from whoever started it, and ends when that closes.
"""

import contextlib
import logging
import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ..api import files
from ..api.errors import RunError, UserError, shortened
from ..api.subprocesses import python
from ..machine import platform

GRACE = 60.0  # seconds in which a process that is asked to end may save
POLL = 0.2  # seconds between looks at the processes
JOIN = 20.0  # seconds in which a Ray cluster must answer
POINT = f"from {__package__}.point import main; main()"


class Task(NamedTuple):
  """A point to be trained."""

  experiment: str
  workdir: Path
  bindings: Sequence[str]
  segment: str = ""  # what a member of a population trains, as `Segment.to_text` has it


class Job(Protocol):
  """A point under way."""

  def poll(self) -> int | None: ...  # its exit code, once it has ended
  def stop(self) -> None: ...  # asks it to save and end


class Launcher(Protocol):
  """Starts points; `workers` is how many at a time."""

  workers: int

  def start(self, task: Task) -> Job: ...


def each(
  further: Callable[[], tuple[int, Task] | None],
  launcher: Launcher,
  looked: Callable[[int], None],
  ended: Callable[[int, int], None],
) -> bool:
  """Trains points until there are no further ones, or a signal comes.

  Args:
    further: gives the next point with its number; None where there is none at least until another
      has ended.
    launcher: starts them.
    looked: is told now and then how many are running.
    ended: is told the number and the exit code of each that has ended.

  Returns:
    Whether a signal stopped it; points that were running have then been given time to save.
  """
  running: dict[int, Job] = {}
  with platform.stop_signals() as stopping:
    # `more` is False while nothing can be started before another point has ended.
    more = True
    while (more or running) and not stopping():
      while more and len(running) < launcher.workers:
        found = further()
        more = found is not None
        if found is not None:
          number, task = found
          running[number] = launcher.start(task)
      looked(len(running))
      time.sleep(POLL)
      for number in [k for k, job in running.items() if job.poll() is not None]:
        code = running.pop(number).poll()
        ended(number, -1 if code is None else code)
        # The result may have made a further point: the next one of bayes, a member's second try.
        more = True
    # `ended` is not told of these: the disk says how far they came when the command goes on.
    _stop(running)
    return stopping()


def _stop(running: Mapping[int, Job]) -> None:
  """Lets the processes save and end."""
  for job in running.values():
    job.stop()
  deadline = time.monotonic() + GRACE
  while any(job.poll() is None for job in running.values()) and time.monotonic() < deadline:
    time.sleep(POLL)


class Processes:
  """Starts each point as a process on this machine."""

  def __init__(self, workers: int | None, lock: int):
    # Points inherit the lock: a killed sweep's folder stays taken until they have saved and ended.
    self.workers, self._lock = workers or 1, lock

  def start(self, task: Task) -> "_Process":
    return _Process(_spawn(task, [self._lock]))


class _Process:
  def __init__(self, process: subprocess.Popen):
    self._process = process

  def poll(self) -> int | None:
    return self._process.poll()

  def stop(self) -> None:
    # This sends SIGTERM, on which training saves and ends.
    self._process.terminate()


def import_ray() -> Any:
  """Imports Ray.

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
      # Points write to a log.txt of their own: Ray need not forward what its workers print.
      ray.init(address, log_to_driver=False, logging_level=logging.ERROR, ignore_reinit_error=True)
    except Exception as error:  # of many types, by what is wrong
      raise RunError(f"Ray cannot be started: {shortened(str(error))}") from error
    has = ray.cluster_resources()
    # A point takes a GPU as a whole: then GPUs are what limits how many run at a time.
    gpus = 1 if has.get("GPU") else 0
    # Ray makes no retries: a lost point counts as failed, and the sweep decides what becomes of it.
    self._task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(_train)
    self.workers = workers or max(1, int(has.get("GPU" if gpus else "CPU", 1)))

  def start(self, task: Task) -> "_Task":
    # Ray's workers have a current folder of their own.
    of_all = task._replace(workdir=task.workdir.absolute())
    return _Task(self._ray, self._task.remote(of_all, os.getcwd()))


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
    # Ray raises KeyboardInterrupt in the task, where `_train` then asks the process to save.
    self._ray.cancel(self._reference)


def _train(task: Task, folder: str) -> int:
  """What Ray runs: a process again, so that each point starts with a fresh JAX.

  It runs in the folder of the sweep, from where gin files are named, if this machine has that.
  """
  here = folder if os.path.isdir(folder) else None
  process = _spawn(task, folder=here)
  try:
    return process.wait()
  finally:
    # The task was cancelled: its process is asked to save, and is given the time for that.
    if process.poll() is None:
      process.terminate()
      with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)


def _spawn(task: Task, keep: Sequence[int] = (), folder: str | None = None) -> subprocess.Popen:
  """Starts the process of a point, in a session of its own: Ctrl-C reaches the sweep alone."""
  files.make_folder(task.workdir)
  # The log is appended to: a point that is started again keeps what it said before.
  with (task.workdir / "log.txt").open("a", encoding="utf-8") as log:
    return subprocess.Popen(
      [*python(POINT), task.experiment, str(task.workdir), task.segment, *task.bindings],
      cwd=folder,
      # Nothing is written to this pipe: it closes when this process ends, in any way, see `point`.
      stdin=subprocess.PIPE,
      stdout=log,
      stderr=log,
      pass_fds=keep,
      start_new_session=True,
    )

"""The platform of a process: JAX's devices, and the signals that end a run."""

import contextlib
import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence

import jax

from ..api.errors import UserError
from ..api.subprocesses import cores
from ..api.types import Device
from . import process, variables

M_ARENA_MAX = -8  # of mallopt
ARENAS = 2  # of glibc's malloc


def prepare(learners: Sequence[int] | None, actors: Sequence[int] = ()) -> None:
  """Makes as many CPU devices as these name, and starts JAX; None names one for each core.

  With several learner devices on the CPU each computes in one thread: a shard a core is faster than
  all cores on one operation after another. What XLA_FLAGS already says stands.

  Raises:
    RunError: the environment asks JAX for what is not there.
  """
  if learners is None:
    learners = range(cores())
  wanted = len({*actors, *learners})
  flags = os.environ.get("XLA_FLAGS", "")
  # All of this before JAX starts: it reads the flags and the number of devices once, and threads
  # that it has started keep the arenas that they were given.
  if wanted > 1 and "xla_force_host_platform_device_count" not in flags:
    with contextlib.suppress(RuntimeError):  # JAX has started: its devices are what they are
      jax.config.update("jax_num_cpu_devices", wanted)
  if len(learners) > 1 and "xla_cpu_multi_thread_eigen" not in flags:
    os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
  _keep_memory_together()
  variables.start_jax()


def _keep_memory_together() -> None:
  """Limits the arenas of glibc's malloc; those of MALLOC_ARENA_MAX stand.

  By default there are eight a core, and each keeps what was freed in it: threads that come and go,
  as those that write checkpoints do, let a process grow by megabytes a minute for hours.
  """
  mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
  if mallopt and "MALLOC_ARENA_MAX" not in os.environ:
    mallopt(M_ARENA_MAX, ARENAS)


def devices(indices: Sequence[int] | None, what: str) -> list[Device]:
  """Returns this process's JAX devices of these indices, or all.

  Raises:
    UserError: there is no such device, or none is asked for, or one twice.
  """
  known = jax.local_devices()
  if indices is None:
    return known
  if not indices or len(set(indices)) < len(indices) or not set(indices) <= set(range(len(known))):
    raise UserError(
      f"{what} = {tuple(indices)}: give different numbers from 0 to {len(known) - 1}; "
      f"this machine has {', '.join(map(str, known))}."
    )
  return [known[i] for i in indices]


def learner_devices(indices: Sequence[int] | None, batch_size: int) -> list[Device]:
  """Returns the devices that a batch is split over: those asked for, or as many as divide it.

  They are of every process of the job, in the order of processes, the same indices of each.
  """
  found = devices(indices, "train.learner_devices")
  if indices is None:
    share = batch_size // jax.process_count()
    indices = range(max(n for n in range(1, len(found) + 1) if share % n == 0))
  return [jax.local_devices(p)[i] for p in range(jax.process_count()) for i in indices]


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
  """Makes Ctrl-C, SIGTERM and SIGHUP ask a run to save and end; a second Ctrl-C ends it at once.

  In a program that trains in a thread beside its main one, signals stay that program's affair.

  Yields:
    A function that says whether the run was asked to end.
  """
  if threading.current_thread() is not threading.main_thread():  # no other may handle signals
    yield lambda: False
    return
  stop = process.Stop()
  before = {number: signal.signal(number, stop) for number in process.heeded()}
  try:
    yield lambda: stop.asked
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)

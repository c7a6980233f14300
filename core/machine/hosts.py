"""The processes of one job, on one host or many: joining them, and what they tell each other.

Every process runs the same program. All of them act in environments of their own and share each
update; the first one alone writes logs. Whatever not all of them see (a signal, a clock, the end of
an episode) is told to all before it is acted on, so that all make the same updates.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from numpy.typing import ArrayLike

from ..api.errors import RunError, UserError
from .supervise import LOST

HEARTBEAT = 20  # seconds without a sign of life after which a process counts as lost
PATIENCE = 120  # seconds that processes are given to come
# Seconds that processes which have ended wait for the first one, which may still be evaluating. One
# that is lost is noticed by HEARTBEAT all the same.
LONG = 7 * 24 * 3600

_LOST_PROCESS = re.compile(r"gloo|nccl|coordination service|barrier", re.I)


class Asked(NamedTuple):
  """Requests of a process after an update; all processes do what any wants."""

  stop: bool
  log: bool
  save: bool


def join(coordinator: str, num_processes: int | None, process_id: int | None) -> None:
  """Joins the job: waits until all its processes are there; before JAX looks for devices.

  Args:
    coordinator: 'host:port' of the first process, or 'auto': as JAX finds it in SLURM, Open MPI,
      Kubernetes or the variable JAX_COORDINATOR_ADDRESS.
    num_processes: of the job.
    process_id: of this one, from 0.

  Raises:
    UserError: these do not describe a job.
  """
  try:
    jax.distributed.initialize(
      None if coordinator == "auto" else coordinator,
      num_processes,
      process_id,
      initialization_timeout=PATIENCE,
      heartbeat_timeout_seconds=HEARTBEAT,
      shutdown_timeout_seconds=LONG,
    )
  except (ValueError, IndexError) as error:
    given = f"--coordinator {coordinator} --num-processes {num_processes} --process-id {process_id}"
    if coordinator == "auto":
      given = "--coordinator auto: JAX knows of no SLURM, Open MPI or Kubernetes job here"
    hint = "Give HOST:PORT of the first process, how many there are, and which this is."
    raise UserError(f"{given}: {error} {hint}") from error


def count() -> int:
  """Returns the number of processes of the job."""
  return jax.process_count()


def index() -> int:
  """Returns the number of this process in the job, from 0."""
  return jax.process_index()


def is_first() -> bool:
  """Says whether this is the first process: the one that writes."""
  return index() == 0


def gather(numbers: ArrayLike) -> np.ndarray:
  """Tells every process the numbers of all; waits for all.

  Args:
    numbers: of this process, [N] with the same N everywhere; 32 bits each.

  Returns:
    [P, N], in the order of processes.
  """
  array = np.asarray(numbers)
  return multihost_utils.process_allgather(array) if count() > 1 else array[None]


def first_says(answer: bool) -> bool:
  """Returns the first process's answer to all; waits for all."""
  return bool(gather([answer])[0, 0])


def none_refused(refusal: UserError | None) -> None:
  """Checks that the first process was not refused what it asked for, on behalf of all.

  Args:
    refusal: of this process, if it is the first.

  Raises:
    UserError: it was.
  """
  if first_says(refusal is not None):
    if count() > 1:
      jax.distributed.shutdown()  # as in `check_same`
    raise refusal or UserError("the first process of the job says why it cannot start.")


def check_same(numbers: dict[str, int]) -> None:
  """Checks that all processes have the same numbers.

  Args:
    numbers: by what they are of, for the message; 32 bits each.

  Raises:
    UserError: names the first that differs.
  """
  told = gather(np.array(list(numbers.values()), np.uint32))
  for name, column in zip(numbers, told.T, strict=True):
    if len(set(column.tolist())) > 1:
      jax.distributed.shutdown()  # waits for the others: all know, and none is to be lost to them
      raise UserError(
        f"the processes of the job do not have the same {name}: start all with the same arguments, "
        "and a --workdir that all of them share."
      )


def alone(stopping: Callable[[], bool]) -> Callable[[], bool]:
  """Returns `stopping` in a job of one process; else one that says no, as all must agree first."""
  return stopping if count() == 1 else lambda: False


def tell(
  asked: Asked, episodes: Sequence[tuple[float, int]], capacity: int
) -> tuple[Asked, list[tuple[float, int]]]:
  """Tells all processes what this one asks for, and which episodes have finished in it.

  Args:
    asked: of this process; only the first one's clock counts.
    episodes: their returns and lengths.
    capacity: at most so many of them.

  Returns:
    What any process asked for, and all episodes, in the order of processes.
  """
  if count() == 1:
    return asked, list(episodes)
  # Clocks differ, so the first process's says when to log and to save; any may ask for the end.
  wanted = Asked(asked.stop, asked.log and is_first(), asked.save and is_first())
  # One collective of a fixed size for all of it: sizes that differ would need one more to agree.
  # float32 holds whole numbers up to 2^24 exactly: counts and lengths come through as they are.
  padded = np.zeros((capacity, 2), np.float32)
  padded[: len(episodes)] = np.reshape(episodes, (-1, 2))
  head = np.array([*wanted, len(episodes)], np.float32)
  told = gather(np.concatenate([head, padded.ravel()]))
  flags, counts, pairs = told[:, :3], told[:, 3].astype(int), told[:, 4:].reshape(len(told), -1, 2)
  finished = [
    (float(value), int(length))
    for process, number in zip(pairs, counts, strict=True)
    for value, length in process[:number]
  ]
  return Asked(*(bool(flag.any()) for flag in flags.T)), finished


@contextlib.contextmanager
def losses_explained() -> Iterator[None]:
  """Makes a RunError of what a collective within it raises when another process is lost.

  It does so as well where another layer has wrapped that exception as a failure of its own, as the
  writing of a checkpoint does.
  """
  try:
    yield
  except Exception as error:
    # By its text: JAX raises the same class for every failure of a compiled program.
    if count() > 1 and _LOST_PROCESS.search(str(error)):
      raise RunError(LOST) from error
    raise

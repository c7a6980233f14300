"""A pool of the Real-World RL suite: blocks of environments in worker processes."""

import contextlib
import functools
import math
import multiprocessing
import multiprocessing.util
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from typing import Any

import numpy as np
from dm_env import specs
from gymnasium.vector import async_vector_env

from ...core.api import Array, EnvSpec, RunError, TimeStep, cores
from ._rwrl_block import EPISODE, Block, observation_size, run
from ._rwrl_settings import Challenges, domains

_WORKER_MODULES = [f"{__package__}._rwrl_block", f"{__package__}._rwrl_physics"]
_LONGEST_TMPDIR = 107 - len("/pymp-12345678/listener-12345678")  # bytes; Unix sockets' paths: 107
_WORKER_VARIABLES = {
  "OMP_NUM_THREADS": "1",  # one process a core: NumPy's own threads would only compete
  "OPENBLAS_NUM_THREADS": "1",
  "MKL_NUM_THREADS": "1",
  "MUJOCO_GL": "disable",  # nothing is drawn
  "PYTHONSAFEPATH": "1",  # a file of the user's in the current folder is not taken for a library
}


class Pool:
  """Environments in blocks, one worker process a block, rows in the order of the seeds.

  Workers are forked from a clean server process, never from this one, which has threads. They end
  with `close`, and by themselves when this process is gone.

  Raises:
    RunError: workers cannot be started; from `reset`, `send` and `recv`: one died or failed. The
      others are ended.
  """

  def __init__(
    self, domain: str, challenges: Challenges, seeds: tuple[int, ...], num_workers: int | None
  ):
    self.num_envs = len(seeds)
    spec = domains()[domain]
    self.spec = EnvSpec(
      specs.Array((observation_size(domain, challenges),), np.float32),
      specs.BoundedArray(
        (len(spec.action_minimum),), float, spec.action_minimum, spec.action_maximum
      ),
    )
    # All blocks have so many rows, but the last may have fewer environments.
    self._rows = math.ceil(self.num_envs / min(num_workers or cores(), self.num_envs))
    blocks = [seeds[i : i + self._rows] for i in range(0, self.num_envs, self._rows)]
    # The server imports these once; workers are forked with them loaded.
    multiprocessing.get_context("forkserver").set_forkserver_preload(_WORKER_MODULES)
    n = len(blocks)
    # Block i is i / n of an episode ahead where `reset` staggers.
    make = [
      functools.partial(Block, domain, challenges, block, self._rows, i * EPISODE // n)
      for i, block in enumerate(blocks)
    ]
    try:
      with _variables(_WORKER_VARIABLES), _deaf(), _short_paths():
        # copy=False gives views of memory that the workers share; `_timestep` copies what it keeps.
        self._blocks = async_vector_env.AsyncVectorEnv(
          make, copy=False, context="forkserver", worker=run
        )
    except OSError as error:
      raise RunError(f"the workers of rwrl cannot be started: {error}.") from error
    self.pids = [process.pid for process in self._blocks.processes]
    self._ended = np.zeros(n, bool)
    # A pool that nobody closes: Python would send its workers SIGTERM, to which they are deaf, and
    # wait for ever. This comes before.
    multiprocessing.util.Finalize(None, _kill, (self._blocks,), exitpriority=0)

  def reset(self, stagger: bool = False) -> TimeStep:
    """Starts an episode in every environment; timesteps [B, ...].

    Staggered, the first episodes of blocks end at different steps, those of one together.

    Raises:
      RunError: a worker died or failed.
    """
    reset = functools.partial(self._blocks.reset, options={"stagger": stagger})
    observation, _ = self._call(reset)
    # `reset` comes once, before any block has ended: every row is FIRST.
    return self._timestep(observation, ~self._ended)

  def send(self, actions: Array) -> None:
    """Starts a step with actions [B, A] in all workers; raises as `reset`."""
    # The last block may have fewer environments: zeros for rows that have none.
    padded = np.zeros(self._blocks.action_space.shape or ())
    padded.reshape(-1, padded.shape[-1])[: self.num_envs] = actions
    self._call(functools.partial(self._blocks.step_async, padded))

  def recv(self) -> TimeStep:
    """Waits for the step of all workers; its timesteps, [B, ...]; raises as `reset`."""
    # In the step after an end Gymnasium's worker resets its block instead: FIRST, as we want it.
    first = self._ended
    observation, _, _, self._ended, _ = self._call(self._blocks.step_wait)
    return self._timestep(observation, first)

  def _timestep(self, observation: np.ndarray, first: np.ndarray) -> TimeStep:
    """Returns timesteps [B, ...] of what blocks observe, [N, K, D + 1]; `first` is [N]."""
    rows = observation.reshape(-1, observation.shape[-1])[: self.num_envs]
    return TimeStep(
      rows[:, :-1].copy(),  # the workers write to it again
      rows[:, -1].copy(),
      np.ones(self.num_envs, np.float32),  # episodes are cut and never end, so no discount is 0
      np.repeat(first, self._rows)[: self.num_envs],
    )

  def _call(self, function: Callable[[], Any]) -> Any:
    try:
      return function()
    except Exception as error:
      died = []
      for process in self._blocks.processes:
        # A broken pipe is seen before the exit code of the worker that died is.
        process.join(0.5 if isinstance(error, (EOFError, OSError)) else 0)
        if process.exitcode:
          died.append(f"worker {process.pid} {_fate(process.exitcode)}")
      self.close()
      why = ", ".join(died) or f"{type(error).__name__}: {error}"
      raise RunError(f"the environments of rwrl cannot go on: {why}.") from error

  def close(self) -> None:
    """Ends the workers at once, a step in flight or not; they hold nothing to save."""
    _kill(self._blocks)
    for pipe in self._blocks.parent_pipes:
      if pipe is not None:
        pipe.close()


def _kill(blocks: async_vector_env.AsyncVectorEnv) -> None:
  """Ends all workers and waits for them; those that have died already are waited for alone."""
  blocks.closed = True  # its own way waits for replies, also of workers that have died
  for process in blocks.processes:
    process.kill()
  for process in blocks.processes:
    process.join()


@contextlib.contextmanager
def _short_paths() -> Iterator[None]:
  """Puts temporary files into /tmp within it, if TMPDIR is too long for the paths of sockets.

  `multiprocessing` makes a folder for its sockets when it starts its first server, and keeps it.
  """
  before = tempfile.gettempdir()
  if len(os.fsencode(before)) > _LONGEST_TMPDIR:
    tempfile.tempdir = "/tmp"
  try:
    yield
  finally:
    tempfile.tempdir = before


def _fate(exitcode: int) -> str:
  if exitcode >= 0:
    return f"exited with code {exitcode}"
  return f"was killed by {signal.Signals(-exitcode).name} (out of memory?)"


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
  """Starts processes within it that a terminal or scheduler cannot end along with this one.

  This one is told too, saves, and ends the workers; multiprocessing's own end when it is gone.
  """
  numbers = (signal.SIGTERM, signal.SIGHUP)
  before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
  try:
    resource_tracker.ensure_running()  # where it starts it lets SIGTERM through again
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _variables(values: dict[str, str]) -> Iterator[None]:
  """Sets environment variables for processes that are started within it."""
  before = {name: os.environ.get(name) for name in values}
  os.environ.update(values)
  try:
    yield
  finally:
    for name, value in before.items():
      os.environ.pop(name) if value is None else os.environ.update({name: value})

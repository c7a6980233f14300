"""A pool of EnvPool as an `Environment`: the part that every plugin built on it shares."""

import contextlib
import ctypes
import difflib
import functools
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

import numpy as np
from dm_env import specs

from ...core.api import Array, EnvSpec, TimeStep, UserError
from ._limit import Limited

Info = Mapping[str, np.ndarray]  # EnvPool's extra outputs, [B] each
Observe = Callable[[Any], Array]  # EnvPool's observation -> [B, *spec.observation.shape]
Draw = Callable[[Array], Array]  # observation of one environment -> uint8 [height, width, 3]
Discount = Callable[[np.ndarray, Info, Info], np.ndarray]
# terminated [B], info_tm1, info_t -> fresh [B] float32


@functools.cache
def envpool() -> ModuleType:
  """Imports EnvPool on first use: it takes seconds, and `selftune --help` must not."""
  preload_egl()
  import envpool

  return envpool


@functools.cache
def preload_egl() -> bool:
  """Makes the system's EGL visible to the whole process; does nothing where there is none.

  Without it EnvPool's MuJoCo finds no OpenGL and ends the process at the first frame it draws.

  Returns:
    Whether it came in time: before anyone's first import of EnvPool.
  """
  if "envpool" in sys.modules:
    return hasattr(ctypes.CDLL(None), "eglGetDisplay")  # LD_PRELOAD does it too
  with contextlib.suppress(OSError):
    ctypes.CDLL("libEGL.so.1", mode=ctypes.RTLD_GLOBAL)
  return True


DRAWN = {"render_mode": "rgb_array"}  # EnvPool's option of pools that can be drawn


def unknown(binding: str, name: str, known: Iterable[str]) -> str:
  """Returns the message for a `name` that is none of `known`: the nearest ones, or all of them."""
  known = sorted(known)
  lower = {k.lower(): k for k in known}
  close = [lower[c] for c in difflib.get_close_matches(str(name).lower(), lower, n=3)]
  hint = (
    f"Did you mean {' or '.join(map(repr, close))}?" if close else f"Known: {', '.join(known)}."
  )
  return f"{binding} = {name!r} does not exist. {hint}"


def until_terminated(terminated: np.ndarray, info_tm1: Info, info_t: Info) -> np.ndarray:
  """Computes discounts [B]: 0 where the task terminated, [B] bool, else 1; a limit is no end."""
  del info_tm1, info_t
  return (~terminated).astype(np.float32)


def channels_last(frames: np.ndarray) -> Array:
  """Turns images [B, C, H, W] into new ones [B, H, W, C]."""
  batch, channels, height, width = frames.shape
  # A plane at a time: six times faster than a copy of the transposed view.
  out = np.empty((batch, height, width, channels), frames.dtype)
  for channel in range(channels):
    out[..., channel] = frames[:, channel]
  return out


class Pool:
  """A synchronous EnvPool with one environment a seed, rows in the order of the seeds.

  EnvPool ignores the actions of the call after a done step and answers with the first observation
  of the next episode; that row is FIRST. Some of its tasks repeat the last reward there, so reward
  and discount of FIRST rows are overwritten.

  Args:
    task: EnvPool's id.
    seeds: one an environment, 31 bits.
    observation: what `observe` returns for one environment.
    observe: turns EnvPool's observation into a fresh or never reused array [B, ...].
    discount: the discount of rows that are not FIRST.
    episode_length: steps of every episode if these are all the same, else None.
    limit: steps after which an episode is cut, of a task whose observation is one array; None
      leaves that to EnvPool.
    num_threads: threads that step; None for one a CPU, at most one an environment.
    options: EnvPool's own, by name; with `DRAWN` among them `draw` works.
    draw: draws what EnvPool itself does not.
  """

  def __init__(
    self,
    task: str,
    seeds: tuple[int, ...],
    *,
    observation: specs.Array,
    observe: Observe,
    discount: Discount = until_terminated,
    episode_length: int | None = None,
    limit: int | None = None,
    num_threads: int | None = None,
    options: Mapping[str, Any],
    draw: Draw | None = None,
  ):
    self.num_envs = len(seeds)
    self._observe = observe
    self._discount = discount
    self._episode_length = episode_length
    self._seeds = seeds
    self._task, self._draw = task, draw
    # Only the gymnasium type tells time limits from terminations.
    longer = {} if limit is None else {"max_episode_steps": limit + 1}
    self._pool: Any = envpool().make(
      task,
      "gymnasium",
      num_envs=self.num_envs,
      seed=list(seeds),
      num_threads=min(self.num_envs, num_threads or os.cpu_count() or 1),  # more would idle
      **options,
      **longer,
    )
    self.spec = EnvSpec(observation, self._pool.spec.action_spec())
    with warnings.catch_warnings():
      # Built once, on first use: Gymnasium warns that EnvPool writes float32 bounds as float64.
      warnings.filterwarnings("ignore", ".*precision lowered", UserWarning)
      _ = self._pool.observation_space
    if limit is not None:
      self._pool = Limited(self._pool, limit)

  def reset(self, stagger: bool = False) -> TimeStep:
    """Starts an episode in every environment; timesteps [B, ...], FIRST also where staggered."""
    raw, self._info = self._pool.reset()
    self._done = np.zeros(self.num_envs, bool)
    observation = self._observe(raw)
    if stagger and self._episode_length is not None:
      observation = self._stagger(observation, self._episode_length)
    self._shown = observation
    return TimeStep(
      observation,
      np.zeros(self.num_envs, np.float32),
      np.ones(self.num_envs, np.float32),
      np.ones(self.num_envs, bool),
    )

  def _stagger(self, observation: Array, episode_length: int) -> Array:
    """Steps environment i of B at random to step i / B of its episode; [B, ...] shown then."""
    rng = np.random.default_rng(self._seeds)
    action = self._pool.action_space
    low, high = (np.broadcast_to(x, action.shape) for x in (action.low, action.high))
    wanted = rng.permutation(self.num_envs) * episode_length // self.num_envs
    observation = observation.copy()
    for step in range(wanted.max()):
      # Those that have come to their step wait; EnvPool steps the environments that it is given.
      rows = np.flatnonzero(wanted > step).astype(np.int32)
      raw, *_ = self._pool.step(rng.uniform(low, high, (len(rows), *action.shape)), rows)
      there = wanted[rows] == step + 1
      if there.any():
        observation[rows[there]] = self._observe(raw)[there]
    return observation

  def send(self, actions: Array) -> None:
    """Starts a step with actions [B, ...]; EnvPool's threads make it."""
    self._pool.send(np.asarray(actions))  # EnvPool casts

  def recv(self) -> TimeStep:
    """Waits for the step; its timesteps, [B, ...], of which nothing is written to again."""
    observation, reward, terminated, truncated, info = self._pool.recv()
    discount = self._discount(terminated, self._info, info)
    # A row is FIRST if the row before it ended an episode: EnvPool does not say so itself.
    first, self._done, self._info = self._done, terminated | truncated, info
    reward[first], discount[first] = 0, 1  # in place: EnvPool's arrays are fresh at each call
    self._shown = self._observe(observation)
    return TimeStep(self._shown, reward, discount, first)

  def draw(self) -> Array:
    """Returns the picture of environment 0, uint8 [height, width, 3].

    Raises:
      UserError: EnvPool has none of this task.
    """
    if self._draw is not None:
      return self._draw(self._shown[0])
    try:
      return self._pool.render()[0]
    except RuntimeError as error:
      raise UserError(f"EnvPool cannot draw {self._task}: {error}.") from error

  def close(self) -> None:
    """Ends the threads; a step in flight is finished first."""
    del self._pool

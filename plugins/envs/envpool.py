"""The small tasks of EnvPool: classic control, toy text, Box2D."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from dm_env import specs

from ...core.api import Array, Count, DrawnEnvironment, Environment, UserError, register, resumable
from . import _pool

_FAMILIES = ("envpool.classic_control", "envpool.toy_text", "envpool.box2d")
_UNLIMITED = 2**31 - 1  # the tasks with this default do not look at the limit
# EnvPool's options that are the pool's, not the task's, or have a field of their own here.
_NOT_OPTIONS = {
  "num_envs",
  "batch_size",
  "num_threads",
  "thread_affinity_offset",
  "max_num_players",
  "base_path",
  "seed",
  "env_seed",
  "gym_reset_return_info",
  "max_episode_steps",
  "reward_threshold",
}


@register("env", "envpool")
@dataclasses.dataclass(frozen=True)
class EnvPool:
  """Classic control, toy text and Box2D tasks of EnvPool: Catch-v0, CartPole-v1, FrozenLake-v1, ...

  Real-valued observations are float32 and images uint8, as they come. Integers (the state of
  FrozenLake, the three numbers of Blackjack) become one-hot float32 vectors, concatenated.

  `max_episode_steps` is the time limit, None for the task's own. What the limit cuts is truncated;
  an episode that ends on the last step that it allows has ended, with discount 0. `options` are
  EnvPool's for the task, such as {'height': 20, 'width': 10} of Catch; `num_threads` is None for
  one a CPU.

  Raises:
    UserError: no such task, or no such option or value of an option.
  """

  task: str = "Catch-v0"
  max_episode_steps: Count | None = None
  num_threads: Count | None = resumable(None)
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    library = _pool.envpool()
    families = {task: entry[0] for task, entry in library.registration.registry.specs.items()}
    tasks = [task for task, family in families.items() if family in _FAMILIES]
    if self.task not in tasks:
      raise UserError(_pool.unknown("envpool.task", self.task, tasks))
    defaults = library.make_spec(self.task).config._asdict()
    if self.max_episode_steps is not None:
      self._check_limit(self.max_episode_steps, defaults["max_episode_steps"])
    for option, value in self.options.items():
      if option not in defaults or option in _NOT_OPTIONS:
        known = defaults.keys() - _NOT_OPTIONS
        raise UserError(_pool.unknown(f"envpool.options of {self.task}: name", option, known))
      # Types are to be equal: isinstance would take True for a number.
      if type(value) is not type(defaults[option]):
        raise UserError(
          f"envpool.options of {self.task}: {option!r} must be of type "
          f"{type(defaults[option]).__name__}, such as {defaults[option]!r}; got {value!r}."
        )
    # Tried here: such options would otherwise fail only when a pool is made.
    try:
      fits = all(self._raw_observation().shape)
    except ValueError:
      fits = False
    if not fits:
      raise UserError(
        f"envpool.options of {self.task}: {dict(self.options)!r} leaves no observation to make."
      )

  def _check_limit(self, limit: int, default: int):
    """Raises UserError for a time limit that EnvPool would not keep."""
    if limit < 1:
      raise UserError(
        f"envpool.max_episode_steps = {limit} must be at least 1, or None for the limit of "
        f"{self.task} itself, {default}."
      )
    if default == _UNLIMITED:
      raise UserError(
        f"envpool.max_episode_steps = {limit}: {self.task} has no time limit and EnvPool would "
        "ignore one; leave it None."
      )

  def _limit(self) -> int | None:
    """Returns the time limit in steps, if there is one."""
    default = _pool.envpool().make_spec(self.task).config.max_episode_steps
    limit = default if self.max_episode_steps is None else self.max_episode_steps
    return None if limit >= _UNLIMITED else limit

  def _raw_observation(self) -> specs.Array:
    return _pool.envpool().make_spec(self.task, **self.options).observation_spec().obs

  def make(self, seeds: tuple[int, ...]) -> Environment:
    """Makes a pool of one environment a seed."""
    return self._make(seeds, {})

  def make_drawn(self, seeds: tuple[int, ...]) -> DrawnEnvironment:
    """Makes the same pool, with EnvPool's pictures; those of planes, such as Catch's, are ours."""
    plane = len(self._raw_observation().shape) == 2
    return self._make(seeds, {}, _plane) if plane else self._make(seeds, _pool.DRAWN)

  def _make(
    self, seeds: tuple[int, ...], drawn: Mapping[str, Any], draw: _pool.Draw | None = None
  ) -> _pool.Pool:
    observation, observe = _view(self._raw_observation())
    return _pool.Pool(
      self.task,
      seeds,
      observation=observation,
      observe=observe,
      limit=self._limit(),
      num_threads=self.num_threads,
      options={**self.options, **drawn},
      draw=draw,
    )


def _plane(observation: Array) -> Array:
  """Draws numbers in [0, 1], [H, W], such as Catch's, as a grey picture, uint8 [H, W, 3]."""
  return np.repeat((255 * np.asarray(observation)).astype(np.uint8)[..., None], 3, axis=-1)


def _view(raw: specs.Array) -> tuple[specs.Array, _pool.Observe]:
  """Returns the spec of what agents see, and the function to it from observations like `raw`."""
  if raw.dtype == np.uint8 or not np.issubdtype(raw.dtype, np.integer):
    # As they come: EnvPool's arrays are fresh at each call.
    return specs.Array(raw.shape, raw.dtype), lambda x: x
  assert isinstance(raw, specs.BoundedArray), raw
  # One range for all numbers of an observation, though Blackjack's three would do with less.
  low, high = int(np.min(raw.minimum)), int(np.max(raw.maximum))
  one_hot = np.eye(high - low + 1, dtype=np.float32)
  # A row of `one_hot` for each number, laid end to end.
  size = math.prod(raw.shape) * len(one_hot)
  return specs.Array((size,), np.float32), lambda x: one_hot[x - low].reshape(len(x), size)

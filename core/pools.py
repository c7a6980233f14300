"""Pools of environments, made by their plugin and checked as they are used.

A timestep of the shapes and dtypes that are wanted costs a comparison, a microsecond. Any other is
cast where that loses nothing that counts, and else named: NumPy would broadcast it in silence.
"""

from typing import Any

import numpy as np
from dm_env import specs

from . import checks
from .errors import UserError
from .interfaces import DrawablePlugin, DrawnEnvironment, Environment, EnvPlugin
from .types import Array, EnvSpec, TimeStep


def make(env: EnvPlugin, seeds: tuple[int, ...]) -> "CheckedPool":
  """A pool of one environment a seed.

  Raises:
    UserError: what the plugin gives is no such pool.
  """
  return CheckedPool(checks.who(env), env.make(seeds), len(seeds), Environment)


def make_drawn(env: DrawablePlugin, seeds: tuple[int, ...]) -> "CheckedPool":
  """A pool whose first environment can be drawn.

  Raises:
    UserError: this machine cannot draw, or what the plugin gives is no such pool.
  """
  return CheckedPool(checks.who(env), env.make_drawn(seeds), len(seeds), DrawnEnvironment)


class CheckedPool:
  """A pool that raises UserError where what it is given is not what `Environment` promises."""

  def __init__(self, owner: str, pool: Any, num_envs: int, protocol: type):
    if not isinstance(pool, protocol):
      raise UserError(
        f"{owner} gave {checks.described(pool)} as its pool; wanted: a selftune.core.interfaces."
        f"{protocol.__name__}, with spec, num_envs, reset, send, recv and close."
      )
    spec = pool.spec
    if not isinstance(spec, EnvSpec) or not all(isinstance(x, specs.Array) for x in spec):
      raise UserError(
        f"{owner} gave {spec!r} as its spec; wanted: an EnvSpec of dm_env.specs, of one "
        "environment."
      )
    if pool.num_envs != num_envs:
      raise UserError(
        f"{owner} made a pool of {pool.num_envs} environments; wanted: {num_envs}, one a seed."
      )
    self.spec, self.num_envs = spec, num_envs
    self._owner, self._pool = owner, pool
    number = ((num_envs,), np.dtype(np.float32))
    observation = ((num_envs, *spec.observation.shape), np.dtype(spec.observation.dtype))
    self._wanted = [observation, number, number, ((num_envs,), np.dtype(bool))]

  def reset(self, stagger: bool = False) -> TimeStep:
    return self._checked(self._pool.reset(stagger), "reset()")

  def send(self, actions: Array) -> None:
    self._pool.send(actions)

  def recv(self) -> TimeStep:
    return self._checked(self._pool.recv(), "recv()")

  def close(self) -> None:
    self._pool.close()

  def draw(self) -> Array:
    """The picture of environment 0, of a pool that draws."""
    picture = self._pool.draw()
    shape = np.shape(picture)
    if len(shape) != 3 or shape[2] != 3 or picture.dtype != np.uint8:
      raise UserError(
        f"{self._owner}: draw() gave {checks.described(picture)}; wanted: uint8 [height, width, 3]."
      )
    return picture

  def _checked(self, timestep: Any, call: str) -> TimeStep:
    if not isinstance(timestep, TimeStep):
      raise UserError(
        f"{self._owner}: {call} gave {checks.described(timestep)}; wanted: a TimeStep."
      )
    if [_signature(x) for x in timestep] == self._wanted:
      return timestep
    return TimeStep(*map(self._cast, timestep._asdict().items(), self._wanted, [call] * 4))

  def _cast(self, field: tuple[str, Any], wanted: tuple, call: str) -> np.ndarray:
    (name, given), (shape, dtype) = field, wanted
    found = np.asarray(given)
    as_bool = dtype == np.bool_ and np.issubdtype(found.dtype, np.integer)
    if found.shape != shape or not (as_bool or np.can_cast(found.dtype, dtype, "same_kind")):
      raise UserError(
        f"{self._owner}: {call} gave {found.dtype} {list(found.shape)} as TimeStep.{name}; wanted: "
        f"{dtype} {list(shape)}, the first axis being that of the {self.num_envs} environments."
      )
    return found.astype(dtype, copy=False)


def _signature(x: Any) -> tuple | None:
  return (x.shape, x.dtype) if isinstance(x, np.ndarray) else None

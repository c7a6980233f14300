"""Environments, on the host and on the device, checked as they are used.

A timestep of the shapes and dtypes that are wanted costs a comparison, a microsecond. Of any other
the shape must be right, for NumPy would broadcast it in silence, and its dtype such that a cast
loses no fractions.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from dm_env import specs

from ..api import checks
from ..api.contracts import (
  DrawablePlugin,
  DrawnEnvironment,
  Environment,
  EnvPlugin,
  FunctionalEnvironment,
)
from ..api.errors import UserError
from ..api.types import Array, EnvSpec, PyTree, TimeStep


def make(env: EnvPlugin, seeds: tuple[int, ...]) -> "CheckedPool":
  """Makes a pool of one environment a seed.

  Raises:
    UserError: what the plugin gives is no such pool.
  """
  return CheckedPool(checks.who(env), env.make(seeds), len(seeds), Environment)


def make_drawn(env: DrawablePlugin, seeds: tuple[int, ...]) -> "CheckedPool":
  """Makes a pool of one environment a seed, of which the first can be drawn.

  Raises:
    UserError: this machine cannot draw, or what the plugin gives is no such pool.
  """
  return CheckedPool(checks.who(env), env.make_drawn(seeds), len(seeds), DrawnEnvironment)


class Functions(NamedTuple):
  """A `FunctionalEnvironment` whose functions check what those of a plugin give."""

  spec: EnvSpec
  init: Any
  step: Any


def functional(env: FunctionalEnvironment) -> FunctionalEnvironment:
  """Returns the environment with functions that check what they give, while they are traced.

  Raises:
    UserError: from its functions too, if what the plugin gives is no timestep of its `spec`, or a
      state whose structure changes.
  """
  owner, spec = checks.who(env), env.spec
  if not isinstance(spec, EnvSpec):
    raise UserError(f"{owner} gave {checks.described(spec)} as its spec; wanted: an EnvSpec.")
  shape = spec.observation.shape
  # A whole number may become a real one; the other way a cast would cut fractions off.
  dtypes = checks.NUMBER if jnp.issubdtype(spec.observation.dtype, jnp.floating) else checks.WHOLE

  def checked(given: Any) -> tuple[PyTree, TimeStep]:
    state, timestep = checks.several(owner, given, ("state", "TimeStep"))
    checks.instance(owner, "its timestep", timestep, TimeStep)
    checks.array(owner, "TimeStep.observation", timestep.observation, shape, dtypes=dtypes)
    checks.array(owner, "TimeStep.reward", timestep.reward, (), dtypes=checks.NUMBER)
    checks.array(owner, "TimeStep.discount", timestep.discount, (), dtypes=checks.NUMBER)
    checks.array(owner, "TimeStep.first", timestep.first, (), dtypes=checks.WHOLE)
    return checks.arrays(owner, "its state", state), timestep

  def step(state: PyTree, action: Array) -> tuple[PyTree, TimeStep]:
    new_state, timestep = checked(env.step(state, action))
    checks.tree(owner, "its state", new_state, state)
    return new_state, timestep

  return Functions(spec, lambda key: checked(env.init(key)), step)


class CheckedPool:
  """A pool that raises UserError where what it is given is not what `Environment` promises."""

  def __init__(self, owner: str, pool: Any, num_envs: int, protocol: type):
    if not isinstance(pool, protocol):
      raise UserError(
        f"{owner} gave {checks.described(pool)} as its pool; wanted: a selftune."
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
    # In the order of TimeStep's fields: observation, reward, discount, first.
    number = ((num_envs,), np.dtype(np.float32))
    observation = ((num_envs, *spec.observation.shape), np.dtype(spec.observation.dtype))
    self._wanted = [observation, number, number, ((num_envs,), np.dtype(bool))]

  def reset(self, stagger: bool = False) -> TimeStep:
    """Starts an episode in every environment; its FIRST timesteps, [B, ...], checked."""
    return self._checked(self._pool.reset(stagger), "reset()")

  def send(self, actions: Array) -> None:
    """Starts a step with actions [B, *action]."""
    self._pool.send(actions)

  def recv(self) -> TimeStep:
    """Waits for the step under way; its timesteps, [B, ...], checked."""
    return self._checked(self._pool.recv(), "recv()")

  def close(self) -> None:
    """Closes the plugin's pool."""
    self._pool.close()

  def draw(self) -> Array:
    """Returns the picture of environment 0, uint8 [height, width, 3], of a pool that draws."""
    picture = self._pool.draw()
    drawn = isinstance(picture, np.ndarray) and picture.dtype == np.uint8
    if not drawn or picture.ndim != 3 or picture.shape[2] != 3:
      raise UserError(
        f"{self._owner}: draw() gave {checks.described(picture)}; wanted: uint8 [height, width, 3]."
      )
    return picture

  def _checked(self, timestep: Any, call: str) -> TimeStep:
    if not isinstance(timestep, TimeStep):
      raise UserError(
        f"{self._owner}: {call} gave {checks.described(timestep)}; wanted: a TimeStep."
      )
    signature = [(x.shape, x.dtype) if isinstance(x, np.ndarray) else None for x in timestep]
    # Field by field only where something differs: this is asked at every step.
    if signature != self._wanted:
      for (name, given), wanted in zip(timestep._asdict().items(), self._wanted, strict=True):
        self._check(f"{call} gave {{}} as TimeStep.{name}", np.asarray(given), *wanted)
    return timestep

  def _check(self, what: str, found: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> None:
    # By same_kind no integer becomes a bool, and no signed one unsigned: 0 and 1 of Python may.
    whole = np.issubdtype(found.dtype, np.integer) and dtype.kind in "biu"
    if found.shape != shape or not (whole or np.can_cast(found.dtype, dtype, "same_kind")):
      given = "no numbers" if found.dtype == object else f"{found.dtype} {list(found.shape)}"
      raise UserError(
        f"{self._owner}: {what.format(given)}; wanted: {dtype} {list(shape)}, the first axis that "
        f"of its {self.num_envs} environments."
      )

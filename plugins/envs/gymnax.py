"""The environments of gymnax: MinAtar, classic control, bsuite, on the device."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from dm_env import specs

from ...core.api import Array, UserError, register
from . import _device, _pictures
from ._pool import unknown

_BINARY = "-MinAtar"  # observations hold 0 and 1 alone: a quarter of the memory as bool


@register("env", "gymnax")
@dataclasses.dataclass(frozen=True)
class Gymnax(_device.OnDevice):
  """Environments of gymnax: Breakout-MinAtar, CartPole-v1, ...; `gymnax.registered_envs` has all.

  `params` are those of the environment that differ from its defaults, such as
  {'max_steps_in_episode': 1000}; `kwargs` are for its constructor, such as
  {'use_minimal_action_set': False} of MinAtar. The time limit truncates: the discount is 0 at
  termination alone. Observations are as they come, but those of MinAtar bool instead of float32.

  Raises:
    UserError: gymnax is not installed. When it is first used: no such environment or parameter.
  """

  name: str = "Breakout-MinAtar"
  params: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    _device.require("gymnax", "gymnax")

  @functools.cached_property
  def _library(self) -> _device.Library:
    with _device.making("gymnax"):
      env, params = self._made()
      action = _action(env.action_space(params))

    def observed(observation: Any) -> Array:
      observation = _device.flat("gymnax", observation)
      return observation.astype(bool) if self.name.endswith(_BINARY) else observation

    def reset(key: Array):
      # Not `reset` and `step`: that one resets by itself, and shows the new episode for the end.
      observation, inner = env.reset_env(key, params)
      return inner, observed(observation)

    def step(key: Array, inner: Any, action: Array) -> _device.Stepped:
      observation, inner, reward, terminated, _ = env.step_env(key, inner, action, params)
      # `terminated` leaves the time limit out; `is_truncated` is that alone.
      terminated = jnp.asarray(terminated, bool)
      done = terminated | env.is_truncated(inner, params)
      return _device.Stepped(inner, observed(observation), reward, ~terminated, done)

    def draw(inner: Any) -> Array:
      visualizer = _device.imported("gymnax", "gymnax.visualize").Visualizer
      with _pictures.unseen():
        drawing = visualizer(env, params, [inner])
        drawing.init()
        # `init` sets `im` for the environments that it can draw, and not for others.
        if not hasattr(drawing, "im"):
          raise UserError(f"gymnax has no pictures of {self.name}.")
        return _pictures.of_figure(drawing.fig)

    return _device.library("gymnax", action, reset, step, draw)

  def _made(self) -> tuple[Any, Any]:
    """Makes the environment of gymnax, and its parameters."""
    gymnax = _device.imported("gymnax", "gymnax")
    if self.name not in gymnax.registered_envs:
      raise UserError(unknown("gymnax.name", self.name, gymnax.registered_envs))
    try:
      env, params = gymnax.make(self.name, **self.kwargs)
    except TypeError as error:
      raise UserError(f"gymnax.kwargs of {self.name}: {error}.") from error
    what = f"gymnax.params of {self.name}"
    return env, _device.with_params(what, params, self.params, "max_steps_in_episode")


def _action(space: Any) -> specs.DiscreteArray | specs.BoundedArray:
  """Returns the spec of a gymnax space.

  Raises:
    UserError: no policy serves such a space.
  """
  kind = type(space).__name__
  if kind == "Discrete":
    return specs.DiscreteArray(int(space.n))
  if kind == "Box":
    low, high = (
      np.broadcast_to(np.asarray(x, np.float32), space.shape) for x in (space.low, space.high)
    )
    return specs.BoundedArray(space.shape, np.float32, low, high)
  raise UserError(f"@gymnax(): actions of a {kind} space are not offered; one Discrete or Box is.")

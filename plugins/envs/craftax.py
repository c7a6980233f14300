"""Craftax, an open world in the manner of Crafter and NetHack, on the device."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from dm_env import specs

from ...core.api import Array, UserError, register
from . import _device
from ._pool import unknown

NAMES = tuple(
  f"Craftax{of}-{seen}-v1" for of in ("", "-Classic") for seen in ("Symbolic", "Pixels")
)
NEVER = 2**30  # a time limit that no episode comes to


@register("env", "craftax")
@dataclasses.dataclass(frozen=True)
class Craftax(_device.OnDevice):
  """Craftax (Matthews et al. 2024): Craftax-Symbolic-v1, Craftax-Classic-Pixels-v1 and so on.

  `params` are those of the environment that differ from its defaults, such as
  {'max_timesteps': 1000}. The time limit truncates: the discount is 0 at the player's end alone.

  Raises:
    UserError: craftax is not installed. When it is first used: no such environment or parameter.
  """

  name: str = "Craftax-Classic-Symbolic-v1"
  params: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    _device.require("craftax", "craftax")

  @functools.cached_property
  def _library(self) -> _device.Library:
    if self.name not in NAMES:
      raise UserError(unknown("craftax.name", self.name, NAMES))
    env = self._made(self.name)
    what = f"craftax.params of {self.name}"
    params = _device.with_params(what, env.default_params, self.params, "max_timesteps")
    # The library says only whether an episode is over; without a limit that is termination.
    unlimited = dataclasses.replace(params, max_timesteps=NEVER)

    def reset(key: Array):
      observation, inner = env.reset_env(key, params)
      return inner, observation

    def step(key: Array, inner: Any, action: Array) -> _device.Stepped:
      observation, inner, reward, done, _ = env.step_env(key, inner, action, params)
      terminated = env.is_terminal(inner, unlimited)
      return _device.Stepped(inner, observation, reward, ~terminated, done)

    def draw(inner: Any) -> Array:
      pixels = self._made(self.name.replace("Symbolic", "Pixels"))
      return jnp.uint8(255 * pixels.get_obs(inner))

    action = specs.DiscreteArray(int(env.num_actions))
    return _device.library("craftax", action, reset, step, draw)

  def _made(self, name: str) -> Any:
    """Makes an environment of craftax, one that does not reset itself."""
    with _device.making("craftax"):
      make = _device.imported("craftax", "craftax.craftax_env").make_craftax_env_from_name
      return make(name, auto_reset=False)

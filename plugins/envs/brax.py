"""The environments of brax: robots in MuJoCo's MJX and in brax's own physics, on the device."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from ...core.api import (
  Array,
  Count,
  UserError,
  register,
)
from . import _device, _pictures
from ._pool import unknown

_BACKENDS = ("generalized", "mjx", "positional", "spring")


@register("env", "brax")
@dataclasses.dataclass(frozen=True)
class Brax(_device.OnDevice):
  """Environments of brax by name: ant, halfcheetah, hopper, humanoid, inverted_pendulum, ...

  `backend` is the physics: generalized, mjx, positional or spring; None for the environment's own
  choice. An episode that has not terminated is cut after `episode_length` steps of the environment,
  of which an action takes `action_repeat`; learning bootstraps there. `kwargs` are for its
  constructor. Every episode starts from brax's `reset`; its own wrapper repeats the first start.

  Raises:
    UserError: brax is not installed. When it is first used: no such environment or argument.
  """

  name: str = "inverted_pendulum"
  backend: str | None = None
  episode_length: Count = 1000
  action_repeat: Count = 1
  kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    _device.require("brax", "brax")
    if self.backend is not None and self.backend not in _BACKENDS:
      raise UserError(unknown("brax.backend", self.backend, _BACKENDS))

  @functools.cached_property
  def _library(self) -> _device.Library:
    with _device.making("brax"):
      env = self._made()
    observe = functools.partial(_device.flat, "brax")
    # A picture takes positions alone, so MuJoCo draws them whichever backend moves the robot.
    robots = _pictures.Robots(env.sys.mj_model)

    def draw(state: Any) -> Array:
      return robots.draw(qpos=state.pipeline_state.q)

    length = self.episode_length
    return _device.of_brax("brax", env, length, self.action_repeat, observe, draw)

  def _made(self) -> Any:
    """Makes the environment of brax, without its wrappers."""
    envs = _device.imported("brax", "brax.envs")
    known = envs._envs  # brax has no public list of them
    if self.name not in known:
      raise UserError(unknown("brax.name", self.name, known))
    # Not given where it is None: each environment has a default of its own.
    backend = {} if self.backend is None else {"backend": self.backend}
    try:
      return envs.get_environment(self.name, **backend, **self.kwargs)
    except (TypeError, ValueError) as error:
      raise UserError(f"brax.kwargs of {self.name}: {error}.") from error

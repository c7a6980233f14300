"""The environments of MuJoCo Playground: the Control Suite and robots in MJX, on the device."""

import dataclasses
import functools
import subprocess
from collections.abc import Mapping
from typing import Any, Literal

from ...core.api import (
  Array,
  Count,
  UserError,
  register,
)
from . import _device, _pictures
from ._pool import unknown


@register("env", "playground")
@dataclasses.dataclass(frozen=True)
class Playground(_device.OnDevice):
  """Environments of MuJoCo Playground by name: CartpoleBalance, CheetahRun, Go1Getup, ...

  `config` overrides entries of the environment's own configuration, such as {'ctrl_dt': 0.02}.
  `episode_length` and `action_repeat` are None for those of this configuration: steps of the
  environment after which an episode that has not terminated is cut, where learning bootstraps, and
  how many of them an action takes. `impl` 'jax' is physics for every device, 'warp' for NVIDIA's.

  `observation` is the field to take where there are several; None takes 'state', or all of them
  as one vector where there is none of that name. Robots outside of the Control Suite need models
  that Playground downloads with git when one is first used.

  Raises:
    UserError: playground is not installed. When it is first used: no such environment, entry or
      field; a number of it with which nothing would move; the models cannot be downloaded.
  """

  name: str = "CartpoleBalance"
  impl: Literal["jax", "warp"] = "jax"
  episode_length: Count | None = None
  action_repeat: Count | None = None
  observation: str | None = None
  config: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    _device.require("playground", "mujoco_playground")

  @functools.cached_property
  def _library(self) -> _device.Library:
    with _device.making("playground"):
      env, config = self._made()

    def observe(observation: Any) -> Array:
      field = self.observation
      if field is None and isinstance(observation, Mapping) and "state" in observation:
        field = "state"
      return _device.flat("playground", observation, field)

    robots = _pictures.Robots(env.mj_model)

    def draw(state: Any) -> Array:
      # mocap: bodies that the task places itself, such as targets.
      fields = ("qpos", "mocap_pos", "mocap_quat")
      return robots.draw(**{name: getattr(state.data, name) for name in fields})

    length = self.episode_length or config.episode_length
    repeat = self.action_repeat or config.action_repeat
    for name, value in (("episode_length", length), ("action_repeat", repeat)):
      if value < 1:
        raise UserError(f"playground.config of {self.name}: {name} = {value} must be at least 1.")
    return _device.of_brax("playground", env, length, repeat, observe, draw)

  def _made(self) -> tuple[Any, Any]:
    """Makes the environment of Playground, without wrappers, and its configuration."""
    registry = _device.imported("playground", "mujoco_playground").registry
    if self.name not in registry.ALL_ENVS:
      raise UserError(unknown("playground.name", self.name, registry.ALL_ENVS))
    config = registry.get_default_config(self.name)
    overrides = dict(self.config)
    for name in overrides:
      if name.partition(".")[0] not in config:  # which would be added, and read by nobody
        raise UserError(f"playground.config of {self.name}: {unknown('config', name, config)}")
    if "impl" in config:
      # Not every configuration has it, and one that the user gives in `config` counts more.
      overrides.setdefault("impl", self.impl)
    try:
      config.update_from_flattened_dict(overrides)
    except (KeyError, TypeError, ValueError) as error:
      raise UserError(f"playground.config of {self.name}: {error.args[0]}") from error
    try:
      env = registry.load(self.name, config)
    except (subprocess.CalledProcessError, OSError) as error:
      raise UserError(
        f"playground.name = {self.name!r} needs models of robots that git could not download "
        f"({error}); those of the Control Suite, such as CartpoleBalance, need none."
      ) from error
    # The steps of the physics that are nearest to one of control: if these are none, all stands.
    if env.n_substeps < 1:
      raise UserError(
        f"playground.config of {self.name}: in ctrl_dt = {env.dt:g} the physics makes no step; "
        f"write at least sim_dt = {env.sim_dt:g}, or a lesser sim_dt."
      )
    return env, config

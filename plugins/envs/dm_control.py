"""The DeepMind Control Suite, from EnvPool."""

import contextlib
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from dm_env import specs

from ...core.api import Count, DrawnEnvironment, Environment, UserError, register, resumable
from . import _pool, _rendering

# Domain -> tasks -> the keys of dm_control's observation, in its order. EnvPool's has more keys: it
# makes one set serve all tasks of a domain, fills what a task lacks with zeros, and in quadruped's
# `origin` tells what the task hides.
_ARM = "arm_pos arm_vel touch hand_pos"
_DOG = (
  "joint_angles joint_velocites torso_pelvis_height z_projection torso_com_velocity "  # sic
  "inertial_sensors foot_forces touch_sensors actuator_state"
)
_FINGER = "position velocity touch"
_HUMANOID = "joint_angles head_height extremities torso_vertical com_velocity velocity"
_QUADRUPED = "egocentric_state torso_velocity torso_upright imu force_torque"
_KEYS = {
  "acrobot": {"swingup swingup_sparse": "orientations velocity"},
  "ball_in_cup": {"catch": "position velocity"},
  "cartpole": {
    "balance balance_sparse swingup swingup_sparse two_poles three_poles": "position velocity"
  },
  "cheetah": {"run": "position velocity"},
  "dog": {"stand walk trot run": _DOG, "fetch": f"{_DOG} ball_state target_position"},
  "finger": {
    "spin": _FINGER,
    "turn_easy turn_hard": f"{_FINGER} target_position dist_to_target",
  },
  "fish": {
    "upright": "joint_angles upright velocity",
    "swim": "joint_angles upright target velocity",
  },
  "hopper": {"stand hop": "position velocity touch"},
  "humanoid": {"stand walk run": _HUMANOID, "run_pure_state": "position velocity"},
  "humanoid_CMU": {"stand walk run": _HUMANOID},
  "lqr": {"lqr_2_1 lqr_6_2": "position velocity"},
  "manipulator": {
    "bring_ball bring_peg insert_ball insert_peg": f"{_ARM} object_pos object_vel target_pos"
  },
  "pendulum": {"swingup": "orientation velocity"},
  "point_mass": {"easy hard": "position velocity"},
  "quadruped": {
    "walk run": _QUADRUPED,
    "escape": f"{_QUADRUPED} origin rangefinder",
    "fetch": f"{_QUADRUPED} ball_state target_position",
  },
  "reacher": {"easy hard": "position to_target velocity"},
  "stacker": {"stack_2 stack_4": f"{_ARM} box_pos box_vel target_pos"},
  "swimmer": {"swimmer6 swimmer15": "joints to_target body_velocities"},
  "walker": {"stand walk run": "orientations height velocity"},
}


EPISODE_LENGTH = 1000  # control steps
VIDEO_SIZE = 240  # height and width of the pictures of environments seen as features


def observation_keys() -> dict[str, dict[str, tuple[str, ...]]]:
  """Returns the keys of observations by domain and task: all 51 tasks of dm_control."""
  return {
    domain: {task: tuple(keys.split()) for names, keys in tasks.items() for task in names.split()}
    for domain, tasks in _KEYS.items()
  }


@register("env", "dm_control")
@dataclasses.dataclass(frozen=True)
class DMControl:
  """The 51 tasks of the DeepMind Control Suite (Tassa et al. 2018), from features or pixels.

  An episode is 1000 control steps, each of the task's own length, and ends by this limit (discount
  1) alone; only lqr terminates, at rest in its goal. Rewards are in [0, 1], but lqr's only below 1.
  Actions are real, within the task's own bounds.

  'features' are float32 [D]: what dm_control observes, in its order, flattened. 'pixels' are uint8
  [height, width, 3 frame_stack], the last frames in RGB, newest last. `camera` is one of the
  model's, by number, or -1 for a free one that sees all of it. 84 x 84 from camera 0 is the
  suite's own benchmark; it stacks three frames, where the agents of STAC have a memory instead.
  `quality` 'fast' draws without shadows and antialiasing, and a bit darker, 5 to 12 times as many
  frames a second on a CPU; 'full' are the published pictures.

  `num_threads` is None for one a CPU. Pixels have none to choose: pools draw one after the other.

  Raises:
    UserError: no such domain, task, observation or quality; no frame has this size; threads for
      pixels. From `make`: this machine cannot draw, or the model has no such camera.
  """

  domain: str = "cartpole"
  task: str = "swingup"
  observation: Literal["features", "pixels"] = "features"
  height: Count = 84
  width: Count = 84
  camera: int = 0
  frame_stack: Count = 1
  quality: Literal["fast", "full"] = "fast"
  num_threads: Count | None = resumable(None)

  def __post_init__(self):
    keys = observation_keys()
    for name, value, known in (
      ("domain", self.domain, keys),
      ("task", self.task, keys.get(self.domain, ())),
      ("observation", self.observation, ("features", "pixels")),
      ("quality", self.quality, ("fast", "full")),
    ):
      if value not in known:
        of = f" of {self.domain}" if name == "task" else ""
        raise UserError(_pool.unknown(f"dm_control.{name}{of}", value, known))
    if self.camera < -1:
      raise UserError(
        f"dm_control.camera = {self.camera} must be the number of a camera, from 0, or -1."
      )
    # A setting that would do nothing is refused, for whoever wrote it expects that it does.
    defaults = {field.name: field.default for field in dataclasses.fields(self)}
    for name in ("height", "width", "frame_stack"):
      if self.observation == "features" and getattr(self, name) != defaults[name]:
        raise UserError(
          f"dm_control.{name} = {getattr(self, name)} is for pixels: leave it, or write "
          "dm_control.observation = 'pixels'."
        )
    if self.observation == "pixels" and self.num_threads is not None:
      raise UserError(
        f"dm_control.num_threads = {self.num_threads} is for features; pixels are drawn by one "
        "thread, so leave it None."
      )

  @property
  def reference_scores(self) -> tuple[float, float]:
    """The least and the greatest return there can be."""
    return 0.0, float(EPISODE_LENGTH)

  def make(self, seeds: tuple[int, ...]) -> Environment:
    """Makes a pool of one environment a seed, with features [B, D] or pixels [B, H, W, C].

    Raises:
      UserError: of pixels: this machine cannot draw, or the model has no such camera.
    """
    return self._features(seeds, {}) if self.observation == "features" else self._pixels(seeds)

  def make_drawn(self, seeds: tuple[int, ...]) -> DrawnEnvironment:
    """Makes the same pool, with pictures: those that the agent sees, or of features its camera's.

    Raises:
      UserError: this machine cannot draw, or the model has no such camera.
    """
    if self.observation == "pixels":
      return self._pixels(seeds)  # draws what the agent sees
    size = {"render_height": VIDEO_SIZE, "render_width": VIDEO_SIZE}
    camera = {"render_camera_id": self.camera}
    _rendering.check("a video", self._id, {"from_pixels": True, **size, **camera})
    # EnvPool reads the models while the pool is made, and the copy is gone after.
    with _rendering.fast_models(self._id) as base_path:
      return self._features(seeds, {**_pool.DRAWN, **size, **camera, "base_path": base_path})

  def _features(self, seeds: tuple[int, ...], drawn: Mapping[str, Any]) -> _pool.Pool:
    # By name, in dm_control's order: EnvPool's observation has more fields, see _KEYS.
    keys = observation_keys()[self.domain][self.task]
    raw = _pool.envpool().make_spec(self._id).observation_spec()
    size = sum(math.prod(getattr(raw, key).shape) for key in keys)
    return _pool.Pool(
      self._id,
      seeds,
      observation=specs.Array((size,), np.float32),
      observe=lambda observation: _concatenate([observation[key] for key in keys]),
      episode_length=EPISODE_LENGTH,
      num_threads=self.num_threads,
      options=drawn,
    )

  def _pixels(self, seeds: tuple[int, ...]) -> _rendering.InTurn:
    options = {
      "from_pixels": True,
      "render_height": self.height,
      "render_width": self.width,
      "render_camera_id": self.camera,
      "frame_stack": self.frame_stack,
    }
    _rendering.check("dm_control.observation = 'pixels'", self._id, options)
    with contextlib.ExitStack() as stack:
      if self.quality == "fast":
        options["base_path"] = stack.enter_context(_rendering.fast_models(self._id))
      pool = _pool.Pool(
        self._id,
        seeds,
        observation=specs.Array((self.height, self.width, 3 * self.frame_stack), np.uint8),
        observe=_pool.channels_last,
        episode_length=EPISODE_LENGTH,
        # Mesa, which draws on a CPU, ends the process where several threads draw, see InTurn.
        num_threads=1,
        options=options,
        draw=lambda observation: observation[..., -3:],
      )
    return _rendering.InTurn(pool)

  @property
  def _id(self) -> str:
    """EnvPool's name of the task: 'humanoid_CMU', 'run' is HumanoidCMURun-v1."""
    words = f"{self.domain}_{self.task}".split("_")
    # Not title(): CMU keeps its capitals.
    return "".join(word[0].upper() + word[1:] for word in words) + "-v1"


def _concatenate(parts: Sequence[np.ndarray]) -> np.ndarray:
  """Flattens and joins parts of an observation, float64 [B, ...] each, to float32 [B, D]."""
  return np.concatenate([part.reshape(len(part), -1) for part in parts], 1, dtype=np.float32)

"""Tasks of the Real-World RL suite: observations and rewards of all environments of a block.

dm_control takes them one environment at a time and looks names up at every call, which on the small
domains is most of a step. Here what they depend on is copied out of MuJoCo's memory, a row an
environment, and the rest is done for the block at once, with equal results.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from dm_control.suite import humanoid, quadruped, walker
from dm_control.utils import rewards

Views = Mapping[str, np.ndarray]  # of MuJoCo's memory, [n] each; valid until the model is reloaded
Readings = Mapping[str, np.ndarray]  # copies of them, of all environments, [K, n] each

tolerance: Any = rewards.tolerance

# Columns of a rotation matrix in `xmat`.
_XX, _XZ, _ZX, _ZZ = 0, 2, 6, 8


class Task(NamedTuple):
  """The functions that a domain's task consists of."""

  views: Callable[[Any], Views]  # of a physics
  observation: Callable[[Readings], np.ndarray]  # -> [K, n]
  reward: Callable[[Readings], np.ndarray]  # -> [K]


class Sensors:
  """The sensors of K environments of a domain: observations and rewards of its task."""

  def __init__(self, domain: str, environments: Sequence[Any]):
    self._task, self._environments = _TASKS[domain], environments

  def attach(self) -> None:
    """Looks MuJoCo's memory up; to be called when models may have been reloaded, which moves it."""
    # Each name gets columns of one array, so that reading an environment is a single copy.
    views = [self._task.views(environment.physics) for environment in self._environments]
    sizes = [view.size for view in views[0].values()]
    ends = np.cumsum(sizes)
    self._views = [tuple(its.values()) for its in views]
    self._rows = np.empty((len(views), ends[-1]))
    columns = zip(views[0], sizes, ends, strict=True)
    self._readings = {name: self._rows[:, end - size : end] for name, size, end in columns}

  def read(self) -> tuple[np.ndarray, np.ndarray]:
    """Reads observations [K, n] in the suite's order, and rewards [K, 1], both new arrays."""
    for row, views in zip(self._rows, self._views, strict=True):
      np.concatenate(views, out=row)
    return self._task.observation(self._readings), self._task.reward(self._readings)[:, None]


def _cartpole_views(physics: Any) -> Views:
  data = physics.data
  return {"cart": data.qpos[:1], "pole": data.xmat[2], "velocity": data.qvel, "control": data.ctrl}


def _cartpole_observation(it: Readings) -> np.ndarray:
  return np.concatenate((it["cart"], it["pole"][:, [_ZZ, _XZ]], it["velocity"]), axis=1)


def _cartpole_reward(it: Readings) -> np.ndarray:
  # cartpole.Balance, not sparse: a product, so that all of it must be good at once.
  upright = (it["pole"][:, _ZZ] + 1) / 2
  centered = (1 + tolerance(it["cart"][:, 0], margin=2)) / 2
  control = tolerance(it["control"][:, 0], margin=1, value_at_margin=0, sigmoid="quadratic")
  velocity = tolerance(it["velocity"][:, 1], margin=5)
  return upright * ((4 + control) / 5) * ((1 + velocity) / 2) * centered


def _walker_views(physics: Any) -> Views:
  data, torso = physics.data, _body(physics, "torso")
  return {
    # Body 0 is the world. Slices, even of one number, are views; an index would copy the number.
    "bodies": data.xmat[1:].reshape(-1),
    "height": data.xpos[torso, 2:],
    "velocity": data.qvel,
    "upright": data.xmat[torso, _ZZ:],
    "speed": _sensor(physics, "torso_subtreelinvel", 1),
  }


def _walker_observation(it: Readings) -> np.ndarray:
  frames = it["bodies"].reshape(len(it["bodies"]), -1, 9)
  orientations = frames[:, :, [_XX, _XZ]].reshape(len(frames), -1)
  return np.concatenate((orientations, it["height"], it["velocity"]), axis=1)


def _walker_reward(it: Readings) -> np.ndarray:
  # walker.PlanarWalker at walking speed.
  stand, speed = walker._STAND_HEIGHT, walker._WALK_SPEED
  standing = tolerance(it["height"][:, 0], (stand, np.inf), margin=stand / 2)
  upright = (1 + it["upright"][:, 0]) / 2
  move = tolerance(
    it["speed"][:, 0], (speed, np.inf), margin=speed / 2, value_at_margin=0.5, sigmoid="linear"
  )
  return (3 * standing + upright) / 4 * (5 * move + 1) / 6


def _quadruped_views(physics: Any) -> Views:
  # The free root joint comes first, then the hinges. Sensors of a kind follow one another.
  data = physics.data
  return {
    "position": data.qpos[7:],
    "velocity": data.qvel[6:],
    "activation": data.act,
    "torso_velocity": _sensor(physics, "velocimeter", 3),
    "upright": data.xmat[_body(physics, "torso"), _ZZ:],
    # The accelerometer, and the gyro that follows it.
    "imu": _sensor(physics, "imu_accel", 6),
    # The forces of four toes, and then their torques, three numbers each.
    "force_torque": _sensor(physics, "force_toe_front_left", 24),
  }


def _quadruped_observation(it: Readings) -> np.ndarray:
  # The views lie in the observation's order; forces and torques are squashed as in dm_control.
  *same, force_torque = it.values()
  return np.concatenate((*same, np.arcsinh(force_torque)), axis=1)


def _quadruped_reward(it: Readings) -> np.ndarray:
  # quadruped.Move.
  speed = quadruped._WALK_SPEED
  forwards = it["torso_velocity"][:, 0]
  move = tolerance(forwards, (speed, np.inf), margin=speed, value_at_margin=0.5, sigmoid="linear")
  upright = tolerance(
    it["upright"][:, 0], (1, np.inf), margin=2, value_at_margin=0, sigmoid="linear"
  )
  return upright * move


_LIMBS = ("left_hand", "left_foot", "right_hand", "right_foot")


def _humanoid_views(physics: Any) -> Views:
  data, torso = physics.data, _body(physics, "torso")
  return {
    "angles": data.qpos[7:],  # behind those of the free root joint
    "height": data.xpos[_body(physics, "head"), 2:],
    "torso": data.xpos[torso],
    "frame": data.xmat[torso],
    **{limb: data.xpos[_body(physics, limb)] for limb in _LIMBS},
    "com_velocity": _sensor(physics, "torso_subtreelinvel", 3),
    "velocity": data.qvel,
    "control": data.ctrl,
  }


def _humanoid_observation(it: Readings) -> np.ndarray:
  frame = it["frame"].reshape(-1, 3, 3)
  limbs = np.stack([it[limb] - it["torso"] for limb in _LIMBS], axis=1)  # [K, 4, 3]
  # v R, row by row, is R^T v: from the world's axes to the torso's.
  extremities = np.matmul(limbs, frame).reshape(len(frame), -1)
  vertical = it["frame"][:, _ZX:]
  return np.concatenate(
    (it["angles"], it["height"], extremities, vertical, it["com_velocity"], it["velocity"]), axis=1
  )


def _humanoid_reward(it: Readings) -> np.ndarray:
  # humanoid.Humanoid; walking has no direction, so the speed is that in the plane.
  stand, speed = humanoid._STAND_HEIGHT, humanoid._WALK_SPEED
  standing = tolerance(it["height"][:, 0], (stand, np.inf), margin=stand / 4)
  upright = tolerance(
    it["frame"][:, _ZZ], (0.9, np.inf), margin=1.9, value_at_margin=0, sigmoid="linear"
  )
  control = tolerance(it["control"], margin=1, value_at_margin=0, sigmoid="quadratic").mean(axis=1)
  forwards = np.linalg.norm(it["com_velocity"][:, :2], axis=1)
  move = tolerance(forwards, (speed, np.inf), margin=speed, value_at_margin=0, sigmoid="linear")
  return (4 + control) / 5 * (standing * upright) * ((5 * move + 1) / 6)


def _body(physics: Any, name: str) -> int:
  return physics.model.name2id(name, "body")


def _sensor(physics: Any, name: str, size: int) -> np.ndarray:
  """Returns a view of `size` numbers: a sensor's, and those of the sensors behind it."""
  start = int(physics.model.sensor_adr[physics.model.name2id(name, "sensor")])
  return physics.data.sensordata[start : start + size]


_TASKS: Mapping[str, Task] = {
  "cartpole": Task(_cartpole_views, _cartpole_observation, _cartpole_reward),
  "walker": Task(_walker_views, _walker_observation, _walker_reward),
  "quadruped": Task(_quadruped_views, _quadruped_observation, _quadruped_reward),
  "humanoid": Task(_humanoid_views, _humanoid_observation, _humanoid_reward),
}

"""dm_control's accessors without its look-ups.

The suite's physics translate names into indices at every call; on the small domains that is most of
a step. The functions here replace those that observations and rewards call, with equal results to
the last bit. Names stand for the same indices in every model of a domain, perturbed or not.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

# Columns of a rotation matrix in `xmat`.
_XX, _XZ, _ZX, _ZZ = 0, 2, 6, 8


def quicken(domain: str, physics: Any) -> None:
  """Replaces the accessors of one instance; it may be reloaded after."""
  _ACCESSORS[domain](physics)


def _cartpole(it: Any) -> None:
  it.cart_position = lambda: it.data.qpos[0]
  it.pole_angle_cosine = lambda: it.data.xmat[2:, _ZZ]
  it.bounded_position = lambda: np.hstack((it.data.qpos[0], it.data.xmat[2:, [_ZZ, _XZ]].ravel()))


def _walker(it: Any) -> None:
  torso, velocity = _body(it, "torso"), _sensor(it, "torso_subtreelinvel")
  it.torso_upright = lambda: it.data.xmat[torso, _ZZ]
  it.torso_height = lambda: it.data.xpos[torso, 2]
  it.horizontal_velocity = lambda: it.data.sensordata[velocity]
  it.orientations = lambda: it.data.xmat[1:, [_XX, _XZ]].ravel()


def _quadruped(it: Any) -> None:
  # The free root joint comes first, then the hinges. Sensors of a kind follow one another.
  torso, velocity = _body(it, "torso"), _sensor(it, "velocimeter")
  imu, force = _sensor(it, "imu_accel"), _sensor(it, "force_toe_front_left")
  it.torso_upright = lambda: np.asarray(it.data.xmat[torso, _ZZ])
  it.torso_velocity = lambda: it.data.sensordata[velocity : velocity + 3].copy()
  it.egocentric_state = lambda: np.hstack((it.data.qpos[7:], it.data.qvel[6:], it.data.act))
  it.imu = lambda: it.data.sensordata[imu : imu + 6].copy()
  it.force_torque = lambda: np.arcsinh(it.data.sensordata[force : force + 24])


def _humanoid(it: Any) -> None:
  torso, head, velocity = _body(it, "torso"), _body(it, "head"), _sensor(it, "torso_subtreelinvel")
  limbs = [_body(it, f"{side}_{limb}") for side in ("left", "right") for limb in ("hand", "foot")]

  def extremities() -> np.ndarray:
    frame, positions = it.data.xmat[torso].reshape(3, 3), it.data.xpos
    return np.hstack([(positions[limb] - positions[torso]).dot(frame) for limb in limbs])

  it.torso_upright = lambda: it.data.xmat[torso, _ZZ]
  it.head_height = lambda: it.data.xpos[head, 2]
  it.center_of_mass_velocity = lambda: it.data.sensordata[velocity : velocity + 3].copy()
  it.torso_vertical_orientation = lambda: it.data.xmat[torso, _ZX : _ZZ + 1].copy()
  it.extremities = extremities


def _body(it: Any, name: str) -> int:
  return it.model.name2id(name, "body")


def _sensor(it: Any, name: str) -> int:
  """Where the sensor's first number is."""
  return int(it.model.sensor_adr[it.model.name2id(name, "sensor")])


_ACCESSORS: Mapping[str, Callable[[Any], None]] = {
  "cartpole": _cartpole,
  "walker": _walker,
  "quadruped": _quadruped,
  "humanoid": _humanoid,
}

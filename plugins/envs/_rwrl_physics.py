"""Physics of the Real-World RL suite: dm_control's environments, and their perturbation.

Only workers import this: dm_control takes a second to load.
"""

import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any
from xml.etree import ElementTree

import numpy as np
from dm_control import suite
from dm_control.rl import control
from dm_control.suite import common, quadruped

from ._rwrl_settings import Challenges, Parameter, domains, parameter

Edit = tuple[str, str, str]  # path of an element in the XML, its attribute, the new value


def load(domain: str, seed: int) -> control.Environment:
  """Loads the plain task of a domain, without textures: most of the time to compile, and memory."""
  environment = suite.load(domain, domains()[domain].task, task_kwargs={"random": seed})
  if domain == "quadruped":
    task = environment.task
    task.initialize_episode = functools.partial(_start_upright, task)
  environment.physics.reload_from_xml_string(ElementTree.tostring(_stock(domain)), _assets())
  return environment


def _start_upright(task: Any, physics: Any) -> None:
  """Places the quadruped: turned about the vertical at random, raised by 1 cm until it is clear."""
  # dm_control's own start has any orientation, the suite's stands upright.
  azimuth = task.random.uniform(0, 2 * np.pi)
  height, touching = 0.0, True
  while touching:
    try:
      with physics.reset_context():
        root = physics.named.data.qpos["root"]
        # The free joint: x, y, z, and a quaternion with its real part first.
        root[:] = 0, 0, height, np.cos(azimuth / 2), 0, 0, np.sin(azimuth / 2)
    except control.PhysicsError:
      pass  # too many contacts to hold
    touching = physics.data.ncon > 0
    height += 0.01
  task.after_step(physics)


def _stock(domain: str) -> ElementTree.Element:
  """Returns the XML of a domain's plain task, without textures."""
  if domain == "quadruped":
    xml = quadruped.make_model(floor_size=10)  # metres that one can walk in an episode
  else:
    xml, _ = importlib.import_module(f"dm_control.suite.{domain}").get_model_and_assets()
  return _without_textures(xml)


@functools.cache
def _assets() -> dict[str, bytes]:
  plain = {name: _without_textures(xml) for name, xml in common.ASSETS.items()}
  return {name: ElementTree.tostring(root) for name, root in plain.items()}


def _without_textures(xml: str | bytes) -> ElementTree.Element:
  root = ElementTree.fromstring(xml)
  for asset in root.iter("asset"):
    for texture in asset.findall("texture"):
      asset.remove(texture)
    for material in asset.findall("material"):
      material.attrib.pop("texture", None)
  return root


class Perturbation:
  """A change of one parameter of the physics at the start of every n-th episode, the first too.

  Draws N(0, std^2) each time, and for 'uniform' one more number.
  """

  def __init__(self, domain: str, challenges: Challenges):
    assert challenges.perturb is not None
    self._edits = EDITS[domain][challenges.perturb]
    self._root = _stock(domain)
    self._period = challenges.perturb_period
    self._scheduler = challenges.perturb_scheduler
    self._parameter = parameter(domain, challenges)
    self._resets, self._value, self._sign = 0, self._parameter.start, 1.0

  def __call__(self, physics: Any, random: np.random.RandomState) -> None:
    """Counts a reset, and changes the parameter if it is time; that loads the model anew."""
    if self._resets % self._period == 0:
      self._value, self._sign = next_value(
        self._scheduler, self._parameter, self._value, self._sign, random
      )
      # Each change sets the same attributes of the one tree, so nothing is left of the last.
      for path, attribute, value in self._edits(float(self._value)):
        for element in self._root.findall(path):
          element.set(attribute, value)
      physics.reload_from_xml_string(ElementTree.tostring(self._root), _assets())
    self._resets += 1


def next_value(
  scheduler: str, p: Parameter, value: float, sign: float, random: np.random.RandomState
) -> tuple[float, float]:
  """Draws the parameter's next value, and the next direction of 'saw_wave'.

  'saw_wave' takes the change for the value, as the suite does.
  """
  # Drawn for every scheduler, used or not: the stream of random numbers is then the suite's.
  change = random.normal(scale=p.std)
  if scheduler == "random_walk":
    value += change
  elif scheduler in ("drift_pos", "cyclic_pos"):
    value += abs(change)
  elif scheduler in ("drift_neg", "cyclic_neg"):
    value -= abs(change)
  elif scheduler == "uniform":
    value = random.uniform(p.min, p.max)
  elif scheduler == "saw_wave":
    value = sign * abs(change)
    sign = -sign if value >= p.max or value <= p.min else sign
  if (scheduler == "cyclic_pos" and value >= p.max) or (
    scheduler == "cyclic_neg" and value <= p.min
  ):
    # A cycle begins anew once it has come to its end.
    value = p.start
  return float(np.clip(value, p.min, p.max)), sign


def _named(tag: str, names: Sequence[str], attribute: str, value: str) -> list[Edit]:
  return [(f".//{tag}[@name='{name}']", attribute, value) for name in names]


def _class(tag: str, name: str, attribute: str, value: str) -> list[Edit]:
  return [(f".//default[@class='{name}']/{tag}", attribute, value)]


def _floor(p: float) -> list[Edit]:
  return _named("geom", ["floor"], "friction", f"{p} .1 .1")


_THIGHS = ("right_thigh", "left_thigh")
_LEGS = ("right_leg", "left_leg")
_ANKLES = ("ankle_front_left", "ankle_front_right", "ankle_back_right", "ankle_back_left")

# Domain -> parameter -> its value p -> the edits by which the suite sets it.
EDITS: dict[str, dict[str, Callable[[float], list[Edit]]]] = {
  "cartpole": {
    "pole_length": lambda p: [
      *_class("geom", "pole", "fromto", f"0 0 0 0 0 {p}"),
      # A longer pole of the same thickness is heavier: 0.1 kg a metre.
      *_class("geom", "pole", "mass", f"{p / 10}"),
    ],
    "pole_mass": lambda p: _class("geom", "pole", "mass", f"{p}"),
    "joint_damping": lambda p: _class("joint", "pole", "damping", f"{p}"),
    "slider_damping": lambda p: _named("joint", ["slider"], "damping", f"{p}"),
  },
  "walker": {
    "thigh_length": lambda p: [
      # A capsule's size is half its length: the thigh's middle is p below the hip and the knee 2 p;
      # the middle of the leg is 0.25 below the knee.
      *_named("geom", _THIGHS, "pos", f"0 0 {-p}"),
      *_named("geom", _THIGHS, "size", f"0.05 {p}"),
      *_named("body", _LEGS, "pos", f"0 0 {-0.25 - 2 * p}"),
    ],
    "torso_length": lambda p: [
      *_named("geom", ["torso"], "size", f"0.07 {p}"),
      *_named("body", _THIGHS, "pos", f"0 -.05 {-p}"),  # the left one too, as in the suite
    ],
    "joint_damping": lambda p: [("./default/joint", "damping", f"{p}")],
    "contact_friction": lambda p: [
      ("./default/geom", "friction", f"{p} .1 .1"),
      *_floor(p),
    ],
  },
  "quadruped": {
    "shin_length": lambda p: [
      *_class("geom", "knee", "fromto", f"0 0 0 {p} 0 {-p}"),
      *_named("body", _ANKLES, "pos", f"{p} 0 {-p}"),
    ],
    "torso_density": lambda p: _named("geom", ["torso"], "density", f"{p}"),
    "joint_damping": lambda p: _class("joint", "body", "damping", f"{p}"),
    "contact_friction": lambda p: [*_class("geom", "toe", "friction", f"{p}"), *_floor(p)],
  },
  "humanoid": {
    "contact_friction": lambda p: [*_class("geom", "body", "friction", f"{p} .1 .1"), *_floor(p)],
    "joint_damping": lambda p: _class("joint", "body", "damping", f"{p}"),
    "head_size": lambda p: _named("geom", ["head"], "size", f"{p}"),
  },
}

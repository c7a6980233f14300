"""Pictures of environments on the device, by what their libraries draw with."""

import atexit
import contextlib
import functools
import importlib
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from ...core.api import Array

_DPI = 50  # of figures: Jumanji's are 10 x 10 inches


@contextlib.contextmanager
def unseen() -> Iterator[None]:
  """Draws in memory: no window opens, and no figure is left behind."""
  import matplotlib.pyplot as plt  # takes a second

  backend, others = plt.get_backend(), set(plt.get_fignums())
  plt.switch_backend("agg")
  try:
    with plt.rc_context({"figure.dpi": _DPI}), warnings.catch_warnings():
      warnings.simplefilter("ignore")  # that agg shows nothing
      yield
  finally:
    for number in set(plt.get_fignums()) - others:
      plt.close(number)
    plt.switch_backend(backend)


def of_figure(figure: Any) -> Array:
  """Returns the picture, uint8 [height, width, 3], of a Matplotlib figure on agg's canvas."""
  figure.canvas.draw()
  return np.array(figure.canvas.buffer_rgba())[..., :3]


def without_display() -> None:
  """Lets MuJoCo, unless it was imported before, and pygame draw on a machine without a display."""
  os.environ.setdefault("SDL_AUDIODRIVER", "dummy")  # else pygame complains that there is no sound
  if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
    os.environ.setdefault("MUJOCO_GL", "egl")
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")


class Robots:
  """Draws a MuJoCo model, with a renderer that is made at the first picture."""

  def __init__(self, model: Any):
    self._model = model

  @functools.cached_property
  def _mujoco(self) -> Any:
    return importlib.import_module("mujoco")  # much of it is not known to type checkers

  @functools.cached_property
  def _renderer(self) -> Any:
    renderer = self._mujoco.Renderer(self._model, height=240, width=320)
    atexit.register(renderer.close)  # while EGL is still there
    return renderer

  def draw(self, **fields: Array) -> Array:
    """Returns the picture, uint8 [240, 320, 3], of fields of MjData such as qpos, [nq]."""
    data = self._mujoco.MjData(self._model)
    for name, value in fields.items():
      setattr(data, name, value)
    self._mujoco.mj_forward(self._model, data)
    self._renderer.update_scene(data)
    return self._renderer.render()

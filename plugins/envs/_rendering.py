"""Rendering of MuJoCo's pictures by EnvPool: in turn, checked, and faster where that is enough."""

import contextlib
import functools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ...core.api import Array, DrawnEnvironment, TimeStep, UserError, python
from . import _pool

_PACKAGES = "libegl1 libegl-mesa0 libgl1-mesa-dri"  # Debian's and Ubuntu's; draws on the CPU
_MODELS = Path("mujoco", "assets_dmc")  # within EnvPool's `base_path`
_QUALITY = re.compile(r"<quality\b[^>]*>")
_FAST = '<quality shadowsize="0" offsamples="0"/>'  # neither shadows nor antialiasing
_PROBE_SECONDS = 120  # for what takes three


class InTurn:
  """A pool that draws while no other in this process does; its own pool has one thread.

  Where several threads draw at once, Mesa's software driver ends the process with a segmentation
  fault, often within a minute. As with other pools a step runs between `send` and `recv`.
  """

  def __init__(self, pool: DrawnEnvironment):
    self.spec, self.num_envs = pool.spec, pool.num_envs
    self._pool = pool
    self._step: Future[TimeStep]

  def reset(self, stagger: bool = False) -> TimeStep:
    """Starts an episode in every environment; timesteps [B, ...]."""
    return _turns().submit(self._pool.reset, stagger).result()

  def send(self, actions: Array) -> None:
    """Queues a step with actions [B, ...] behind those of the other pools."""

    def step() -> TimeStep:
      self._pool.send(actions)
      return self._pool.recv()

    self._step = _turns().submit(step)

  def recv(self) -> TimeStep:
    """Waits for the step; its timesteps, [B, ...]."""
    return self._step.result()

  def draw(self) -> Array:
    """Returns the picture of environment 0, uint8 [height, width, 3]."""
    return _turns().submit(self._pool.draw).result()

  def close(self) -> None:
    """Returns when the steps in flight, of all pools, are finished."""
    _turns().submit(self._pool.close).result()


@functools.cache
def _turns() -> ThreadPoolExecutor:
  return ThreadPoolExecutor(1, "drawing")  # one thread for the process: that is what makes turns


def check(binding: str, task: str, options: Mapping[str, Any]) -> None:
  """Draws the first frame of `task`, in a process of its own, once for equal arguments.

  Where it cannot be drawn EnvPool ends the process that asks, instead of raising an exception.

  Raises:
    UserError: it cannot; the message says what EnvPool said, and names the packages that draw.
  """
  if not _pool.preload_egl():
    raise UserError(
      f"{binding}: EnvPool was imported before selftune could load EGL for it. Make this first, "
      "and import envpool after it, or run with LD_PRELOAD=libEGL.so.1."
    )
  # Sorted pairs, since a cache wants arguments that can be hashed.
  failure = _failure(task, tuple(sorted(options.items())))
  if failure:
    raise UserError(
      f"{binding}: {task} cannot be drawn on this machine ({failure}). "
      f"If OpenGL is missing, on Debian and Ubuntu: apt-get install {_PACKAGES}"
    )


@functools.cache
def _failure(task: str, options: tuple[tuple[str, Any], ...]) -> str:
  """Tries to draw a frame; the last thing that EnvPool said if there was none, else ''."""
  draw = (
    f"from {_pool.__name__} import envpool; "
    f"envpool().make({task!r}, 'gymnasium', num_envs=1, **{dict(options)!r}).reset()"
  )
  try:
    probe = subprocess.run(
      python(draw),
      capture_output=True,
      encoding="utf-8",
      errors="replace",
      timeout=_PROBE_SECONDS,
    )
  except subprocess.TimeoutExpired:
    return f"no frame within {_PROBE_SECONDS} seconds"
  if probe.returncode == 0:
    return ""
  said = probe.stderr.strip().split("\n")[-1].strip().removeprefix("what():").strip()
  return said or f"exit status {probe.returncode}"


@contextlib.contextmanager
def fast_models(task: str) -> Iterator[str]:
  """Makes a copy of EnvPool's models without shadows and antialiasing, as `base_path`.

  On a CPU 5 to 12 times as many frames a second; the physics is the same. EnvPool has no option for
  it, but reads the models while a pool is made, within this context.
  """
  source = _pool.envpool().make_spec(task).config.base_path
  with tempfile.TemporaryDirectory(prefix="selftune-") as base_path:
    shutil.copytree(
      Path(source, _MODELS), Path(base_path, _MODELS), copy_function=_link_or_simplify
    )
    yield base_path


def _link_or_simplify(source: str, target: str) -> None:
  if source.endswith(".xml"):
    model = Path(source).read_text("utf-8")
    Path(target).write_text(_QUALITY.sub(_FAST, model), "utf-8")
  else:
    os.symlink(source, target)  # meshes

"""Videos of an episode of environment 0, frame by frame, as MP4."""

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..api import files
from ..api.contracts import DrawablePlugin, DrawnEnvironment, Environment, EnvPlugin
from ..api.errors import RunError, UserError
from ..api.registry import name_of
from ..api.types import Array, TimeStep
from ..engine import environments
from .playing import Watch

FPS = 15  # Atari's own pace, with an action every fourth frame
LEAST_SIDE = 240  # pixels; smaller pictures are enlarged


def check_path(path: Path) -> None:
  """Checks that a video can be written to `path`.

  Raises:
    UserError: it cannot.
  """
  if path.suffix != ".mp4":
    instead = path.parent / f"{path.stem.strip('.') or 'video'}.mp4"
    raise UserError(f"--video {path}: the video is an MP4; write {instead}.")
  if not os.access(path.parent, os.W_OK | os.X_OK) or os.path.isdir(path):
    raise UserError(f"--video {path}: cannot write there; choose a file in a folder that exists.")


def drawable(env: EnvPlugin, asked: str) -> DrawablePlugin:
  """Returns the environment, if there can be videos of it.

  Args:
    env: to record.
    asked: what the user wrote, for messages.

  Raises:
    UserError: it cannot be drawn, or a package is missing.
  """
  if not isinstance(env, DrawablePlugin):
    raise UserError(f"{asked}: environments of {name_of(env)} cannot be drawn; leave it out.")
  _imageio(asked)
  return env


@contextlib.contextmanager
def pool_of(
  env: EnvPlugin, seeds: Sequence[int], path: Path | None
) -> Iterator[tuple[Environment, list[Watch]]]:
  """Makes a pool, and the watchers that record a video at `path`, if one is wanted.

  The video is there, whole, once the block has ended well.

  Raises:
    UserError: the environment cannot be drawn, or a package is missing.
  """
  if path is None:
    with contextlib.closing(environments.make(env, tuple(seeds))) as pool:
      yield pool, []
    return
  pool = environments.make_drawn(drawable(env, f"video {path}"), tuple(seeds))
  # From the inside out: the video is written to its end, put in its place, and the pool closed.
  with contextlib.closing(pool), files.replacing(path) as new:
    with contextlib.closing(Video(new, pool)) as video:
      yield pool, [lambda timestep, _: video.add(timestep)]


class Video:
  """A video of the first episode of environment 0; the file is whole after `close`."""

  def __init__(self, path: Path, pool: DrawnEnvironment):
    try:
      path.parent.mkdir(exist_ok=True)
    except OSError as error:
      raise RunError(f"the video cannot be written: {error}") from error
    # One thread: more of them make a small picture no faster. Blocks of 1: frames are else resized
    # to multiples of 16 pixels, which smooths what `enlarged` keeps sharp.
    self._writer = _imageio(str(path)).get_writer(
      path, fps=FPS, macro_block_size=1, output_params=["-threads", "1"]
    )
    self._pool, self._started, self._ended = pool, False, False

  def add(self, timestep: TimeStep) -> None:
    """Adds the pool's picture of this timestep, [B, ...], if it is one of the first episode's.

    Raises:
      RunError: the disk does not take it.
    """
    self._ended |= self._started and bool(timestep.first[0])
    self._started = True
    if not self._ended:
      try:
        self._writer.append_data(enlarged(self._pool.draw()))
      except OSError as error:
        raise RunError(f"the video cannot be written: {str(error).splitlines()[0]}") from error

  def close(self) -> None:
    """Writes what is held back, and closes the file."""
    self._writer.close()


def enlarged(frame: Array) -> Array:
  """Enlarges a picture, uint8 [height, width, 3], to even sides of `LEAST_SIDE` pixels or more.

  Each pixel becomes a square: what the agent saw is not to be smoothed.
  """
  factor = math.ceil(LEAST_SIDE / min(frame.shape[:2]))
  factor += any(factor * side % 2 for side in frame.shape[:2])  # MP4 stores colours of 2 x 2 pixels
  return np.repeat(np.repeat(frame, factor, 0), factor, 1)


def _imageio(asked: str) -> Any:
  # Else it starts ffmpeg by a fork, which may hang where JAX has threads.
  os.environ.setdefault("IMAGEIO_FFMPEG_NO_PREVENT_SIGINT", "1")
  try:
    import imageio.v2 as imageio
    import imageio_ffmpeg
  except ImportError as error:
    raise UserError(
      f"{asked} needs a package that is not installed ({error.name}): pip install "
      "'selftune[video]'."
    ) from None
  del imageio_ffmpeg  # the program that imageio calls
  return imageio

"""Videos: which frames, how large, and what is refused."""

import sys
from pathlib import Path

import imageio.v2 as imageio
import jax
import numpy as np
import pytest

from selftune.core import config as config_module
from selftune.core import train as training
from selftune.core.api.errors import UserError
from selftune.core.api.types import TimeStep
from selftune.core.evaluation import video
from selftune.core.record.workdir import Workdir
from selftune.plugins.envs.atari import Atari
from selftune.plugins.envs.dm_control import DMControl
from selftune.plugins.envs.envpool import EnvPool
from selftune.plugins.envs.gymnax import Gymnax
from selftune.plugins.envs.jumanji import Jumanji
from selftune.plugins.envs.mountain_car import MountainCar


class Drawn:
  """The t-th picture is as bright as 60 t."""

  t = 0

  def draw(self):
    return np.full((10, 5, 3), 60 * self.t, np.uint8)


def test_a_video_is_the_first_episode_of_environment_0(tmp_path):
  pool, path = Drawn(), tmp_path / "video.mp4"
  recording = video.Video(path, pool)
  for pool.t, first in enumerate([(1, 1), (0, 1), (0, 0), (1, 0), (0, 0)]):
    recording.add(TimeStep(None, None, None, np.array(first, bool)))
  recording.close()
  frames = np.stack(imageio.mimread(path))
  assert frames.shape == (3, 480, 240, 3)
  np.testing.assert_allclose(frames.mean((1, 2, 3)), [0, 60, 120], atol=4)


@pytest.mark.parametrize(
  ("shape", "enlarged"),
  [((10, 5), (480, 240)), ((210, 160), (420, 320)), ((241, 301), (482, 602)), ((240, 240),) * 2],
)
def test_pictures_are_large_enough_and_of_even_sides(shape, enlarged):
  picture = np.arange(np.prod(shape) * 3).reshape(*shape, 3)
  larger = video.enlarged(picture)
  assert larger.shape == (*enlarged, 3)
  factor = enlarged[0] // shape[0]
  np.testing.assert_array_equal(larger[::factor, ::factor], picture)


@pytest.mark.parametrize(
  ("env", "size"), [(Atari(), (210, 160)), (EnvPool("CartPole-v1"), (400, 600))]
)
def test_environments_draw_what_happens(env, size):
  pool = env.make_drawn((3, 4))
  pool.reset()
  before = pool.draw()
  for _ in range(8):
    pool.send(np.ones(2, np.int32))
    pool.recv()
  assert before.shape == (*size, 3) and before.dtype == np.uint8
  assert (pool.draw() != before).any()
  pool.close()


def test_catch_is_drawn_as_it_is_observed():
  pool = EnvPool().make_drawn((3,))
  observation = pool.reset().observation[0]
  expected = np.where(observation[..., None] > 0, 255, 0).repeat(3, -1)
  np.testing.assert_array_equal(pool.draw(), expected)
  assert (expected == 255).sum() == 2 * 3  # ball and paddle


def test_environments_on_the_device_are_drawn_by_their_libraries():
  pool = Gymnax("Breakout-MinAtar").make_drawn((3,))
  observation = pool.reset().observation[0]  # [10, 10, 4]
  picture = pool.draw()
  dark, colours = (picture == 0).all(-1), len(np.unique(picture.reshape(-1, 3), axis=0))
  assert picture.dtype == np.uint8 and colours >= 1 + observation.any((0, 1)).sum()
  # The board is black where nothing is, and that is most of it.
  assert 0.6 < dark.mean() / (1 - observation.any(-1).mean()) / (216 * 216 / (250 * 300)) < 1.2
  pool.close()


@pytest.mark.slow
@pytest.mark.parametrize(
  "env",
  [
    Gymnax("CartPole-v1"),
    Jumanji("Game2048-v1"),
    pytest.param("Brax", marks=pytest.mark.long),
    pytest.param("Playground", marks=pytest.mark.long),
  ],
  ids=str,
)
@jax.numpy_rank_promotion("allow")
def test_libraries_draw_what_happens(env):
  if isinstance(env, str):
    env = getattr(pytest.importorskip(f"selftune.plugins.envs.{env.lower()}"), env)
    try:
      env = env()
    except UserError as error:  # an extra that is not installed
      pytest.skip(str(error))
  pool = env.make_drawn((3,))
  pool.reset()
  before = pool.draw()
  for i in range(6):
    action = pool.spec.action
    pool.send(np.full((1, *action.shape), i % 2, action.dtype))
    pool.recv()
  assert before.dtype == np.uint8 and before.ndim == 3
  assert (pool.draw() != before).any()
  pool.close()


@pytest.mark.slow
@pytest.mark.parametrize("observation", ["features", "pixels"])
def test_dm_control_is_drawn(observation):
  pool = DMControl(observation=observation).make_drawn((3,))
  seen = pool.reset().observation
  before = pool.draw()
  assert before.shape == ((240, 240, 3) if observation == "features" else seen.shape[1:])
  pool.send(np.ones((1, 1)))
  pool.recv()
  assert (pool.draw() != before).any()
  pool.close()


def test_what_cannot_be_drawn_is_named():
  pool = Gymnax("DeepSea-bsuite").make_drawn((0,))
  pool.reset()
  with pytest.raises(UserError, match="gymnax has no pictures of DeepSea-bsuite"):
    pool.draw()
  pool = EnvPool("FrozenLake-v1").make_drawn((0,))
  pool.reset()
  with pytest.raises(UserError, match="EnvPool cannot draw FrozenLake-v1"):
    pool.draw()
  with pytest.raises(UserError, match="environments of mountain_car cannot be drawn"):
    video.drawable(MountainCar(), "--video")


def test_what_is_no_place_for_a_video(tmp_path):
  (folder := tmp_path / "folder.mp4").mkdir()
  with pytest.raises(UserError, match=r"the video is an MP4; write video\.mp4"):
    video.check_path(Path(""))
  with pytest.raises(UserError, match=r"a\.avi: the video is an MP4; write a\.mp4"):
    video.check_path(Path("a.avi"))
  for path in (tmp_path / "absent" / "a.mp4", folder):
    with pytest.raises(UserError, match="cannot write there"):
      video.check_path(path)


def test_drawing_is_tried_in_a_run_of_any_seed(config, tmp_path):
  """EnvPool takes seeds of 31 bits, and a run has one of 32."""
  drawn = ("train.evaluation = @evaluation()", "evaluation.video = True", "train.env = @envpool()")
  loaded = config_module.load(config, [*drawn, f"train.seed = {2**32 - 1}"])
  training.prepare(loaded.root, Workdir(tmp_path / "run"))


def test_a_missing_package_is_named_with_its_pip_line(monkeypatch):
  monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
  with pytest.raises(UserError, match=r"imageio_ffmpeg.*pip install 'selftune\[video\]'"):
    video.drawable(EnvPool(), "--video")


def test_atari_scores_are_normalised_by_the_human():
  assert Atari(game="breakout").reference_scores == (1.7, 30.5)

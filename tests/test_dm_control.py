"""DM Control against dm_control itself, and its pictures; the stream is held in test_envs.py."""

import os
import re
import subprocess
import sys
from pathlib import Path

import envpool
import numpy as np
import pytest

from selftune.core.api.errors import UserError
from selftune.plugins.envs import _rendering
from selftune.plugins.envs.dm_control import DMControl, observation_keys

pytestmark = pytest.mark.filterwarnings(
  "ignore:.*precision lowered",  # of EnvPool's own bounds
  "ignore:.*DISPLAY",  # dm_control looks for a screen
)

TASKS = [(domain, task) for domain, tasks in observation_keys().items() for task in tasks]
SIZE = 32  # of pictures: their cost does not depend on it


def test_the_tasks_are_those_of_dm_control():
  from dm_control import suite

  assert sorted(TASKS) == sorted(suite.ALL_TASKS)
  assert len(TASKS) == 51


@pytest.mark.parametrize(
  "domain, task",
  [pytest.param(*t, marks=[pytest.mark.slow] if t[0] == "dog" else []) for t in TASKS],
)
def test_specs_are_those_of_dm_control(domain, task):
  from dm_control import suite

  theirs = suite.load(domain, task)
  observed = theirs.observation_spec()
  assert observation_keys()[domain][task] == tuple(observed)
  pool = DMControl(domain, task).make((0,))
  size = sum(int(np.prod(spec.shape)) for spec in observed.values())
  assert pool.spec.observation.shape == (size,)
  ours, theirs = pool.spec.action, theirs.action_spec()
  assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
  np.testing.assert_array_equal(np.broadcast_to(ours.minimum, ours.shape), theirs.minimum)
  np.testing.assert_array_equal(np.broadcast_to(ours.maximum, ours.shape), theirs.maximum)


@pytest.mark.parametrize(
  "options, message",
  [
    ({"domain": "wlaker"}, r"dm_control\.domain = 'wlaker' .* mean 'walker' "),
    ({"domain": "Walker"}, r"Did you mean 'walker'"),
    (
      {"domain": "walker", "task": "wlak"},
      r"dm_control\.task of walker = 'wlak' does not exist\. Did you mean 'walk'",
    ),
    ({"domain": "walker"}, r"task of walker = 'swingup' .* Known: run, stand, walk\."),
    ({"observation": "pixel"}, r"dm_control\.observation = 'pixel' .* Did you mean 'pixels'"),
    ({"quality": "best"}, r"dm_control\.quality = 'best' .* Known: fast, full"),
    ({"frame_stack": 3}, r"frame_stack = 3 is for pixels: leave it, or write"),
    ({"observation": "pixels", "num_threads": 2}, r"num_threads = 2 .* leave it None"),
    ({"camera": -2}, r"dm_control\.camera = -2 must be the number of a camera"),
  ],
)
def test_mistakes_are_told(options, message):
  with pytest.raises(UserError, match=message):
    DMControl(**options)


def test_models_drawn_fast_have_no_shadows():
  with _rendering.fast_models("ManipulatorBringBall-v1") as base_path:
    models = {
      path.name: path.read_text() for path in Path(base_path, "mujoco/assets_dmc").rglob("*.xml")
    }
    meshes = list(Path(base_path, "mujoco/assets_dmc/dog_assets").iterdir())
    assert meshes and all(mesh.exists() for mesh in meshes)
  assert len(models) == 22
  found = {name: re.findall("<quality .*>", model) for name, model in models.items()}
  assert {name for name, quality in found.items() if quality} == {
    "visual.xml",
    "manipulator.xml",
    "stacker.xml",
  }
  assert {q for quality in found.values() for q in quality} == {
    '<quality shadowsize="0" offsamples="0"/>'
  }
  assert not Path(base_path).exists()


def test_a_machine_that_cannot_draw_is_told_what_to_install(monkeypatch, tmp_path):
  monkeypatch.setenv("__EGL_VENDOR_LIBRARY_DIRS", str(tmp_path))  # no driver is found there
  monkeypatch.chdir(tmp_path)
  Path("envpool.py").write_text("raise SystemExit('not the library')")
  message = (
    r"dm_control\.observation = 'pixels': CartpoleSwingup-v1 cannot be drawn on this machine "
    r"\(.*(EGL|OpenGL).*\)\. If OpenGL .*: apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri$"
  )
  with pytest.raises(UserError, match=message):
    DMControl(observation="pixels", height=SIZE + 1).make((0,))


@pytest.mark.slow
def test_envpool_imported_too_early_is_told():
  code = (
    "import envpool; from selftune.plugins.envs.dm_control import DMControl; "
    "DMControl(observation='pixels').make((0,))"
  )
  run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
  assert run.returncode == 1
  assert "UserError: dm_control.observation = 'pixels': EnvPool was imported before" in run.stderr


@pytest.fixture(scope="module")
def egl() -> None:
  try:
    DMControl(observation="pixels", height=SIZE, width=SIZE).make((0,)).close()
  except UserError as error:
    if os.environ.get("CI"):
      raise
    pytest.skip(str(error))


def pixels(domain="cartpole", task="swingup", **options) -> DMControl:
  size = {"height": SIZE, "width": SIZE}
  return DMControl(domain, task, observation="pixels", **{**size, **options})


def play(plugin, seeds=(3,), steps=4):
  """Observations [steps + 1, B, ...] and rewards [steps + 1, B] under the same actions."""
  pool = plugin.make(seeds)
  action = np.random.default_rng(0).uniform(0, 1, (steps, 1, *pool.spec.action.shape))
  timesteps = [pool.reset()]
  for a in action:
    pool.send(np.repeat(a, len(seeds), axis=0))
    timesteps.append(pool.recv())
  spec = pool.spec.observation
  pool.close()
  assert all(t.observation.dtype == spec.dtype == np.uint8 for t in timesteps)
  assert all(t.observation.shape == (len(seeds), *spec.shape) for t in timesteps)
  return np.stack([t.observation for t in timesteps]), np.stack([t.reward for t in timesteps])


@pytest.mark.slow
def test_pixels_are_those_of_envpool(egl):
  raw = envpool.make(
    "WalkerWalk-v1",
    "gymnasium",
    num_envs=2,
    seed=[3, 4],
    from_pixels=True,
    render_height=24,
    render_width=SIZE,
    render_camera_id=1,
  )
  action = np.random.default_rng(0).uniform(0, 1, (2, 1, 6))
  want = [raw.reset()[0], *(raw.step(np.repeat(a, 2, axis=0))[0] for a in action)]
  options = {"height": 24, "camera": 1, "quality": "full"}
  got, _ = play(pixels("walker", "walk", **options), (3, 4), 2)
  assert got.shape == (3, 2, 24, SIZE, 3)
  np.testing.assert_array_equal(got, np.moveaxis(want, 2, -1))


def test_pictures_change_and_depend_on_the_seed_alone(egl):
  first, _ = play(pixels(), (3, 4), steps=40)
  again, _ = play(pixels(), (3, 4), steps=40)
  np.testing.assert_array_equal(first, again)
  assert (first[0] != first[-1]).any(axis=(1, 2, 3)).all()
  assert (first[:, 0] != first[:, 1]).any()


@pytest.mark.parametrize(
  "domain, task",
  [
    ("cartpole", "swingup"),
    pytest.param("manipulator", "bring_ball", marks=pytest.mark.slow),  # has shadows of its own
  ],
)
def test_quality_changes_the_picture_and_nothing_else(egl, domain, task):
  fast, rewards = play(pixels(domain, task))
  full, rewards_full = play(pixels(domain, task, quality="full"))
  np.testing.assert_array_equal(rewards, rewards_full)
  difference = np.abs(fast.astype(int) - full)
  assert (difference.max(axis=(1, 2, 3, 4)) > 10).all()  # shadows
  assert difference.mean() < 20


@pytest.mark.slow
def test_cameras_differ(egl):
  views = [play(pixels(camera=camera), steps=0)[0] for camera in (-1, 0)]
  assert (views[0] != views[1]).any()


@pytest.mark.slow
def test_a_camera_that_is_not_there_is_told(egl):
  with pytest.raises(UserError, match=r"CartpoleSwingup-v1 .*camera_id is out of range"):
    pixels(camera=9).make((0,))


@pytest.mark.slow
def test_frames_are_stacked_newest_last(egl):
  stacks, _ = play(pixels(frame_stack=3))
  frames, _ = play(pixels())
  assert stacks.shape[-1] == 9
  np.testing.assert_array_equal(stacks[0], np.tile(frames[0], 3))
  for t in range(2, len(frames)):
    np.testing.assert_array_equal(stacks[t], np.concatenate(frames[t - 2 : t + 1], axis=-1))


def test_pools_draw_in_turn_and_step_between_send_and_recv(egl):
  """Drawn at once by several threads, they would end the process sooner or later."""
  pools = [pixels().make(seeds) for seeds in ((3, 4), (5,))]
  expected = [play(pixels(), seeds)[0] for seeds in ((3, 4), (5,))]
  observed = [[pool.reset().observation] for pool in pools]
  for action in np.random.default_rng(0).uniform(0, 1, (4, 1, 1)):
    for pool in pools:
      pool.send(np.repeat(action, pool.num_envs, axis=0))
    for pool, observations in reversed(list(zip(pools, observed, strict=True))):
      observations.append(pool.recv().observation)
  pools[1].send(np.zeros((1, 1)))  # still in flight when the pools are closed
  for pool in pools:
    pool.close()
  for want, got in zip(expected, observed, strict=True):
    np.testing.assert_array_equal(want, got)


@pytest.mark.slow
def test_episodes_from_pixels_go_on_after_the_limit(egl):
  """The models that were drawn fast are gone by then; and a process that drew ends well."""
  code = """
import numpy as np
from selftune.plugins.envs.dm_control import DMControl
pool = DMControl(observation="pixels", height=32, width=32).make((0,))
timesteps = [pool.reset()]
for _ in range(1003):
  pool.send(np.zeros((1, 1)))
  timesteps.append(pool.recv())
assert [t for t, x in enumerate(timesteps) if x.first.all()] == [0, 1001]
assert all(x.discount.all() for x in timesteps)
assert (timesteps[1000].observation != timesteps[1001].observation).any()
"""
  subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_staggered_episodes_are_spread_over_all_steps():
  streams = []
  for _ in range(2):
    pool = DMControl(num_threads=1).make((1, 2, 3, 4))
    steps = [pool.reset(stagger=True)]
    actions = np.random.default_rng(0).uniform(-1, 1, (1001, 4, 1))
    for action in actions:
      pool.send(action)
      steps.append(pool.recv())
    pool.close()
    streams.append(np.stack([step.observation for step in steps]))
  np.testing.assert_array_equal(*streams)
  assert steps[0].first.all()
  first = np.stack([step.first for step in steps])
  assert (first[1:].sum(axis=0) == 1).all()
  left = np.argmax(first[1:], axis=0)  # steps to the end of the episode that was under way
  assert sorted(left) == [250, 500, 750, 1000]
  start = DMControl(num_threads=1).make((1, 2, 3, 4)).reset().observation
  same = (streams[0][0] == start).all(axis=1)
  np.testing.assert_array_equal(same, left == 1000)

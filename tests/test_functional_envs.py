"""Functional environments: equal to EnvPool's, drifting as told, the same stream as a pool."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selftune.plugins.envs.drifting_mountain_car import (
  FAR,
  INFORMATIVE,
  DriftingMountainCar,
  _flip,
)
from selftune.plugins.envs.envpool import EnvPool
from selftune.plugins.envs.mountain_car import MountainCar
from selftune.plugins.networks._tiles import active_tiles, binary_features
from selftune.plugins.networks.tile_coding import TileCoding

STEPS, ENVS = 450, 8


def actions_of(t, velocity):
  """Some environments push with the velocity and reach the goal, some act at random, some rest."""
  rng = np.random.default_rng(t)
  random = rng.integers(3, size=ENVS)
  pushed = np.where(velocity >= 0, 2, 0)
  return np.where(np.arange(ENVS) < 4, pushed, np.where(np.arange(ENVS) < 7, random, 1)).astype(
    np.int32
  )


@pytest.mark.parametrize("cut", ["terminal", "bootstrap"])
def test_mountain_car_equals_envpool(cut):
  """On the same actions, from the same starts, through goals and cuts."""
  pool = EnvPool("MountainCar-v0").make(tuple(range(ENVS)))
  env = MountainCar(cut)
  state, _ = jax.vmap(env.init)(jax.random.split(jax.random.key(0), ENVS))
  step = jax.jit(jax.vmap(env.step))
  expected = pool.reset()
  goals = cuts = 0
  for t in range(STEPS):
    first = expected.first[:, None]
    position, velocity = expected.observation.T
    # Starts are drawn by different generators: take EnvPool's.
    state = state._replace(
      position=np.where(first[:, 0], position, state.position),
      velocity=np.where(first[:, 0], velocity, state.velocity),
    )
    actions = actions_of(t, velocity)
    state, found = step(state, actions)
    pool.send(actions)
    expected = pool.recv()
    np.testing.assert_array_equal(found.first, expected.first)
    np.testing.assert_array_equal(found.reward, expected.reward)
    np.testing.assert_allclose(
      np.where(expected.first[:, None], 0, found.observation),
      np.where(expected.first[:, None], 0, expected.observation),
      atol=2e-5,
    )
    ended = np.asarray(state.done)
    goal = ended & (expected.observation[:, 0] >= 0.5)
    np.testing.assert_array_equal(found.discount == 0, ended if cut == "terminal" else goal)
    goals, cuts = goals + goal.sum(), cuts + (ended & ~goal).sum()
  pool.close()
  assert goals > 8 and cuts > 4


def test_starts_are_uniform_and_differ():
  env = MountainCar()
  _, timestep = jax.vmap(env.init)(jax.random.split(jax.random.key(1), 2000))
  position, velocity = np.asarray(timestep.observation).T
  assert -0.6 <= position.min() < -0.598 and -0.402 < position.max() <= -0.4
  np.testing.assert_allclose(position.std(), 0.2 / np.sqrt(12), rtol=0.05)
  assert not velocity.any() and timestep.first.all() and timestep.discount.all()

  short = MountainCar(max_steps=2)
  state, _ = short.init(jax.random.key(2))
  _, stream = jax.lax.scan(short.step, state, jnp.ones(30, jnp.int32))
  starts = np.asarray(stream.observation)[np.asarray(stream.first), 0]
  assert len(starts) == 10 == len(set(starts))


@pytest.mark.parametrize(
  "env", [MountainCar(max_steps=5), DriftingMountainCar(0.01, max_steps=5)], ids=["car", "drifting"]
)
def test_the_pool_is_the_same_stream(env):
  pool = env.make((3, 4))
  timestep = pool.reset()
  states, expected = zip(*[env.init(jax.random.key(s)) for s in (3, 4)], strict=True)
  states, step = list(states), jax.jit(env.step)
  for t in range(8):
    for i in range(2):
      found = jax.tree.map(lambda x, i=i: x[i], timestep)
      jax.tree.map(np.testing.assert_array_equal, found, expected[i])
    action = np.array([t % 3, 1], np.int32)
    pool.send(action)
    timestep = pool.recv()
    expected = []
    for i in range(2):
      states[i], one = step(states[i], action[i])
      expected.append(one)
  assert timestep.observation.shape == (2, *env.spec.observation.shape)
  pool.close()


def tiles_by_loop(x, tilings, tiles):
  found = []
  for j in range(tilings):
    index = 0
    for k in range(len(x)):
      offset = (j * (2 * k + 1) % tilings) / tilings
      cell = int(np.floor(x[k] * (tiles - 1) + offset))
      assert 0 <= cell < tiles
      index += cell * tiles**k
    found.append(j * tiles ** len(x) + index)
  return found


def test_tiles():
  rng = np.random.default_rng(0)
  points = np.concatenate([rng.random((200, 2)), [[0, 0], [1, 1], [0, 1], [1, 0]]])
  with jax.enable_x64(True):
    found = active_tiles(jnp.asarray(points), 16, 10)
    np.testing.assert_array_equal(found, [tiles_by_loop(x, 16, 10) for x in points])
    features = binary_features(found, 16, 100, jnp.float64)
  assert features.shape == (len(points), 1600)
  np.testing.assert_array_equal(np.flatnonzero(features[0]), found[0])
  np.testing.assert_array_equal(features.sum(1), 16)
  near = np.asarray(active_tiles(jnp.array([[0.5, 0.5], [0.5 + 1 / 16 / 9, 0.5]]), 16, 10))
  assert (near[0] == near[1]).sum() == 15  # a sixteenth of a tile changes one tiling


def test_bounds_of_the_tile_coding():
  spec = MountainCar().spec
  active = TileCoding().build(spec, 3, 1).active
  corners = jnp.array([[-1.2, -0.07], [0.6, 0.07], [-9.0, 9.0]])
  found = np.asarray(active(corners))
  assert found[0].tolist() == [100 * j for j in range(16)]
  assert found.min() >= 0 and found.max() < 1600
  with pytest.raises(ValueError, match=r"must lie below high"):
    TileCoding(low=(0.0, 1.0), high=(1.0, 1.0))
  with pytest.raises(ValueError, match=r"shape \(1632,\); bind tile_coding.low"):
    TileCoding().build(DriftingMountainCar().spec, 3, 1)


# Drift.


def test_signs_flip_at_the_rate_told():
  drift, runs, steps = 2e-4, 200, 100

  def final(key):
    state, _ = DriftingMountainCar(drift).init(key)
    return jax.lax.scan(lambda s, _: (_flip(s, drift), None), state, None, steps)[0].signs

  signs = np.asarray(jax.jit(jax.vmap(final))(jax.random.split(jax.random.key(0), runs)))
  odd = (1 - (1 - 2 * drift) ** steps) / 2  # an odd number of flips
  share = (signs < 0).mean()
  assert abs(share - odd) < 4 * np.sqrt(odd / signs.size)
  by_feature = (signs < 0).mean(0)  # early and late ones alike
  assert abs(by_feature[:800].mean() - by_feature[800:].mean()) < 6 * np.sqrt(odd / signs.size)


def test_flips_are_for_good_and_several_fit_in_a_step():
  start, _ = DriftingMountainCar().init(jax.random.key(0))
  start = start._replace(signs=jnp.ones(10), until=jnp.int32(3))
  state = _flip(start, 0.99999)
  np.testing.assert_array_equal(state.signs, [1, 1, 1, -1, -1, -1, -1, -1, -1, -1])
  assert state.until == 0
  state = _flip(state._replace(until=jnp.int32(25)), 0.5)
  assert (state.signs == jnp.array([1.0] * 3 + [-1.0] * 7)).all() and state.until == 15


@pytest.mark.parametrize("drift", [0.0, 1e-12])
def test_a_gap_too_long_to_count_ends_without_a_flip(drift):
  state, _ = DriftingMountainCar(drift).init(jax.random.key(0))
  assert not state.flips and state.until == FAR - 1
  state = _flip(state._replace(until=jnp.int32(3)), drift)  # it has been drawn on
  assert (state.signs == 1).all() and state.until == FAR + 3 - INFORMATIVE


def test_drifting_observations():
  env = DriftingMountainCar(1e-3)
  state, first = env.init(jax.random.key(0))
  step = jax.jit(env.step)
  noise = []
  for _ in range(300):
    state, timestep = step(state, jnp.int32(2))
    tiles, noisy = np.split(np.asarray(timestep.observation), [INFORMATIVE])
    lit = np.flatnonzero(tiles)
    assert len(lit) == 16
    np.testing.assert_array_equal(tiles[lit], np.asarray(state.signs)[lit])
    noise.append(noisy)
  noise = np.array(noise)
  assert set(np.unique(noise)) == {0.0, 1.0} and noise.shape[1] == 32
  assert abs(noise.mean() - 0.5) < 0.03 and np.all((0.3 < noise.mean(0)) & (noise.mean(0) < 0.7))
  assert (np.asarray(state.signs) < 0).sum() > 200
  assert first.observation.shape == env.spec.observation.shape
  assert dataclasses.replace(env, noise=3).spec.observation.shape == (INFORMATIVE + 3,)


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_drifting_takes_keys_of_any_generator(impl):
  env = DriftingMountainCar(noise=64)
  state, timestep = env.init(jax.random.key(0, impl=impl))
  following, after = env.step(state, jnp.int32(1))
  assert state.key.dtype == following.key.dtype == jax.random.key(0, impl=impl).dtype
  noise = np.stack([x.observation[INFORMATIVE:] for x in (timestep, after)])
  assert set(noise.ravel().tolist()) == {0.0, 1.0} and (noise[0] != noise[1]).any()

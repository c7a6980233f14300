"""Environments of other libraries on the device: equal to the libraries' own loops, step by step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selftune.core.engine import environments
from selftune.plugins.envs.gymnax import Gymnax
from selftune.plugins.envs.jumanji import Jumanji

ENVS = 4


def stream(env, steps):
  """Timesteps [T+1, B] and random actions [T, B] of a plugin, as core runs it."""
  env = environments.functional(env)
  spec = env.spec

  def action(key):
    if hasattr(spec.action, "num_values"):
      return jax.random.randint(key, (), 0, spec.action.num_values)
    low, high = spec.action.minimum, spec.action.maximum
    return jax.random.uniform(key, spec.action.shape, jnp.float32, low, high)

  @jax.jit
  def run(keys):
    state, first = jax.vmap(env.init)(keys)

    def body(state, t):
      keys = jax.random.split(jax.random.fold_in(jax.random.key(7), t), ENVS)
      actions = jax.vmap(action)(keys)
      state, timestep = jax.vmap(env.step)(state, actions)
      return state, (timestep, actions)

    _, (rest, actions) = jax.lax.scan(body, state, jnp.arange(steps))
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rest), actions

  return jax.tree.map(np.asarray, run(jax.random.split(jax.random.key(3), ENVS)))


def check(env, own, steps):
  """Compares each environment's stream with `own`, the library's loop as a Python generator.

  `own(key)` yields (observation, reward, discount, ended) of an episode after another; it is sent
  the actions, and takes key n of `fold_in(key, n)` as the plugin does.
  """
  timesteps, actions = stream(env, steps)
  ends = 0
  for b, key in enumerate(jax.random.split(jax.random.key(3), ENVS)):
    loop = own(lambda n, key=key: jax.random.fold_in(key, n))
    found = next(loop)
    ended = False
    for t in range(steps + 1):
      observation, reward, discount, first = jax.tree.map(lambda x: x[t, b], timesteps)  # noqa: B023
      wanted_observation, wanted_reward, wanted_discount, last = found
      np.testing.assert_allclose(observation, wanted_observation, rtol=1e-5, atol=1e-5)
      np.testing.assert_allclose(reward, wanted_reward, rtol=1e-5, atol=1e-6)
      assert discount == wanted_discount and first == (t == 0 or ended)
      ends, ended = ends + last, last
      if t < steps:
        found = loop.send(actions[t, b])
  return ends, timesteps


def gymnax_loop(name, **params):
  import gymnax

  env, default = gymnax.make(name)
  params = default.replace(**params)
  reset, step = jax.jit(env.reset_env), jax.jit(env.step_env)

  def own(key):
    n = 0
    while True:
      observation, state = reset(key(n), params)
      action = yield observation, 0, 1, False
      ended = False
      while not ended:
        n += 1
        observation, state, reward, terminated, _ = step(key(n), state, action, params)
        ended = bool(terminated) or bool(env.is_truncated(state, params))
        action = yield observation, reward, 1 - float(terminated), ended
      n += 1

  return own


@pytest.mark.parametrize("name", ["CartPole-v1", "Breakout-MinAtar"])
def test_gymnax_equals_its_own_loop(name):
  limit = {"max_steps_in_episode": 18}  # so that some episodes terminate and others are cut
  ends, timesteps = check(Gymnax(name, params=limit), gymnax_loop(name, **limit), 300)
  ended = np.roll(timesteps.first, -1, 0)[:-1]
  assert ends > 40 and 0 < (timesteps.discount[:-1][ended] == 1).mean() < 1


def jumanji_loop(field, **kwargs):
  import jumanji

  env = jumanji.make("Snake-v1", **kwargs)
  reset, step = jax.jit(env.reset), jax.jit(env.step)

  def own(key):
    n = 0
    while True:
      state, timestep = reset(key(n))
      action = yield getattr(timestep.observation, field), 0, 1, False
      while not timestep.last():
        n += 1
        state, timestep = step(state, action)
        found = getattr(timestep.observation, field), timestep.reward, timestep.discount
        action = yield (*found, bool(timestep.last()))
      n += 1

  return own


def test_jumanji_equals_its_own_loop():
  size = {"num_rows": 6, "num_cols": 6}
  env = Jumanji("Snake-v1", observation="grid", kwargs=size)
  ends, timesteps = check(env, jumanji_loop("grid", **size), 300)
  assert ends > 40 and timesteps.reward.sum() > 4


def test_what_is_observed():
  spec = Gymnax("Breakout-MinAtar").spec
  assert spec.observation.shape == (10, 10, 4) and spec.observation.dtype == bool
  assert spec.action.num_values == 3
  assert Gymnax(kwargs={"use_minimal_action_set": False}).spec.action.num_values == 6
  pendulum = Gymnax("Pendulum-v1").spec.action
  np.testing.assert_array_equal([pendulum.minimum, pendulum.maximum], [[-2], [2]])
  # Six rows and columns of five, the step count, and the mask of four actions.
  snake = Jumanji("Snake-v1", kwargs={"num_rows": 6, "num_cols": 6}).spec
  assert snake.observation.shape == (6 * 6 * 5 + 1 + 4,)
  assert dataclasses.replace(Jumanji(), observation="grid").spec.observation.shape == (12, 12, 5)

"""Environments of other libraries on the device: step for step as in the libraries' own loops."""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selftune.core.api import UserError
from selftune.core.commands.cli import main
from selftune.core.engine import environments
from selftune.plugins.envs.brax import Brax
from selftune.plugins.envs.craftax import Craftax
from selftune.plugins.envs.gymnax import Gymnax
from selftune.plugins.envs.jumanji import Jumanji
from selftune.plugins.envs.playground import Playground

KEY = jax.random.key(3)
SNAKE = {"num_rows": 6, "num_cols": 6}


def stream(env, steps):
  """Timesteps [T+1] of a plugin as core runs it, and the random actions [T] that led to them."""
  env = environments.functional(env)
  spec = env.spec.action

  def action(key):
    if hasattr(spec, "num_values"):
      return jax.random.randint(key, (), 0, spec.num_values)
    return jax.random.uniform(key, spec.shape, jnp.float32, spec.minimum, spec.maximum)

  @jax.jit
  def run():
    state, first = env.init(KEY)
    actions = jax.vmap(action)(jax.random.split(jax.random.key(7), steps))
    _, rest = jax.lax.scan(env.step, state, actions)
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rest), actions

  return jax.tree.map(np.asarray, run())


def check(env, reset, step, steps, rtol=1e-6):
  """Compares a plugin's stream with the library's own loop; returns it, and where episodes ended.

  Args:
    env: the plugin.
    reset: the library's, key -> state, observation.
    step: the library's, key, state, action -> state, observation, reward, terminated, truncated.
    steps: to make.
    rtol: relative to numbers of about one.
  """
  timesteps, actions = stream(env, steps)
  state, observation = reset(jax.random.fold_in(KEY, 0))
  rows, ended = [(observation, 0, 1, True)], [False]
  for n, action in enumerate(actions, 1):
    key = jax.random.fold_in(KEY, n)
    if ended[-1]:
      state, observation = reset(key)
      rows.append((observation, 0, 1, True))
      ended.append(False)
    else:
      state, observation, reward, terminated, truncated = step(key, state, action)
      rows.append((observation, reward, 0 if terminated else 1, False))
      ended.append(bool(terminated) or bool(truncated))
  for found, wanted in zip(timesteps, zip(*rows, strict=True), strict=True):
    wanted = np.stack([np.asarray(x) for x in wanted])
    np.testing.assert_allclose(found, wanted, rtol=rtol, atol=rtol)
  return timesteps, np.array(ended)


def check_gymnax(name, steps, **params):
  import gymnax

  env, default = gymnax.make(name)
  params_ = default.replace(**params)

  @jax.jit
  def step(key, state, action):
    observation, state, reward, terminated, _ = env.step_env(key, state, action, params_)
    return state, observation, reward, terminated, env.is_truncated(state, params_)

  reset = jax.jit(lambda key: env.reset_env(key, params_)[::-1])
  return check(Gymnax(name, params), reset, step, steps)


def check_jumanji(name, steps, observe, **plugin):
  import jumanji

  env = jumanji.make(name, **plugin.get("kwargs", {}))

  def reset(key):
    state, timestep = env.reset(key)
    return state, observe(timestep.observation)

  def step(key, state, action):
    state, x = env.step(state, action)
    return state, observe(x.observation), x.reward, x.discount == 0, x.last()

  return check(Jumanji(name, **plugin), jax.jit(reset), jax.jit(step), steps)


@pytest.mark.parametrize("name", ["CartPole-v1", "Breakout-MinAtar"])
def test_gymnax_equals_its_own_loop(name):
  limit = 18  # so that some episodes terminate and others are cut
  timesteps, ended = check_gymnax(name, 300, max_steps_in_episode=limit)
  assert ended.sum() > 12 and 0 < timesteps.discount[ended].mean() < 1


def test_jumanji_equals_its_own_loop():
  timesteps, ended = check_jumanji(
    "Snake-v1", 300, lambda x: x.grid, observation="grid", kwargs=SNAKE
  )
  assert ended.sum() > 12 and timesteps.reward.sum() > 0 and not timesteps.discount[ended].any()


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(
  "name",
  [
    *("Asterix-MinAtar", "Breakout-MinAtar", "Freeway-MinAtar", "Seaquest-MinAtar"),
    *("SpaceInvaders-MinAtar", "CartPole-v1", "Pendulum-v1", "Acrobot-v1", "Catch-bsuite"),
  ],
)
def test_gymnax_equals_its_own_loop_for_10_000_steps(name):
  _, ended = check_gymnax(name, 10_000)
  assert ended.sum() >= 3  # Freeway's episodes have 2,500 steps


@pytest.fixture
def promotion():
  """Libraries may add arrays of different ranks."""
  with jax.numpy_rank_promotion("allow"):
    yield


def check_brax(plugin, env, length, repeat, steps):
  """Against brax's own wrapper of episodes, which does not reset."""
  from brax.envs.wrappers.training import EpisodeWrapper

  env = EpisodeWrapper(env, length, repeat)

  def reset(key):
    state = env.reset(key)
    return state, state.obs

  def step(key, state, action):
    state = env.step(state, action)
    truncated = state.info["truncation"] > 0
    return state, state.obs, state.reward, (state.done > 0) & ~truncated, truncated

  return check(plugin, jax.jit(reset), jax.jit(step), steps, rtol=1e-3)


@pytest.mark.long
@pytest.mark.slow
def test_brax_equals_its_own_wrapper(promotion):
  envs = pytest.importorskip("brax.envs")
  own = envs.get_environment("inverted_pendulum", backend="spring")
  env = Brax("inverted_pendulum", "spring", episode_length=12, action_repeat=2)
  timesteps, ended = check_brax(env, own, 12, 2, 10_000)
  assert ended.sum() > 1000 and 0 < timesteps.discount[ended].mean() < 1


@pytest.mark.long
@pytest.mark.slow
def test_playground_equals_the_wrapper_of_brax(promotion):
  registry = pytest.importorskip("mujoco_playground").registry
  own = registry.load("CartpoleBalance", config_overrides={"impl": "jax"})
  timesteps, ended = check_brax(Playground(episode_length=50), own, 50, 1, 10_000)
  assert ended.sum() > 190 and timesteps.discount.all()  # the task never terminates


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("name", ["Craftax-Classic-Symbolic-v1", "Craftax-Symbolic-v1"])
def test_craftax_equals_its_own_loop(name):
  env = pytest.importorskip("craftax.craftax_env").make_craftax_env_from_name(name, False)
  params = dataclasses.replace(env.default_params, max_timesteps=60)

  @jax.jit
  def step(key, state, action):
    observation, state, reward, done, _ = env.step_env(key, state, action, params)
    cut = state.timestep >= 60
    terminated = done & ~cut | (state.player_health <= 0)
    return state, observation, reward, terminated, cut

  reset = jax.jit(lambda key: env.reset_env(key, params)[::-1])
  plugin = Craftax(name, {"max_timesteps": 60})
  timesteps, ended = check(plugin, reset, step, 1000)
  assert ended.sum() >= 16 and timesteps.discount[ended].any() and timesteps.reward.sum() > 0
  pool = plugin.make_drawn((1,))
  pool.reset()
  assert pool.draw().shape[-1] == 3 and pool.draw().dtype == np.uint8


@pytest.mark.slow
@pytest.mark.parametrize(
  "name, observe, plugin",
  [
    ("Snake-v1", lambda x: x.grid, {"observation": "grid", "kwargs": SNAKE}),
    ("Snake-v1", lambda x: jnp.concatenate([jnp.ravel(y) for y in x]), {"kwargs": SNAKE}),
    ("Game2048-v1", lambda x: x.board, {"observation": "board"}),
  ],
)
def test_jumanji_equals_its_own_loop_for_10_000_steps(name, observe, plugin):
  _, ended = check_jumanji(name, 10_000, observe, **plugin)
  assert ended.sum() > 10


def test_what_is_observed():
  spec = Gymnax("Breakout-MinAtar").spec
  assert spec.observation.shape == (10, 10, 4) and spec.observation.dtype == bool
  assert spec.action.num_values == 3
  assert Gymnax(kwargs={"use_minimal_action_set": False}).spec.action.num_values == 6
  pendulum = Gymnax("Pendulum-v1").spec.action
  np.testing.assert_array_equal([pendulum.minimum, pendulum.maximum], [[-2], [2]])
  # Six rows and columns of five, the step count, and the mask of four actions.
  assert Jumanji(kwargs=SNAKE).spec.observation.shape == (6 * 6 * 5 + 1 + 4,)
  assert Jumanji(observation="grid").spec.observation.shape == (12, 12, 5)


@pytest.mark.parametrize("name", ["gymnax", "jumanji", "brax", "playground", "craftax"])
def test_a_missing_library_is_one_line_with_what_to_type(name, monkeypatch, capsys):
  module = {"playground": "mujoco_playground"}.get(name, name)
  monkeypatch.setitem(sys.modules, module, None)  # as Python marks what cannot be imported
  bind = f"train.env = @{name}()"
  arguments = ["config", "experiments/metatrace_mountain_car", "--bind", bind]
  assert main(arguments) == 2
  said = capsys.readouterr().err
  assert f"pip install 'selftune[{name}]'" in said and len(said.strip().splitlines()) == 1
  assert main(["plugins", "env"]) == 0
  assert name in capsys.readouterr().out


@pytest.mark.parametrize(
  "env, message",
  [
    (Gymnax("Breakout-Minatar"), "Did you mean 'Breakout-MinAtar'"),
    (Gymnax(params={"max_steps": 3}), "name = 'max_steps' does not exist"),
    (Gymnax(kwargs={"minimal": True}), "gymnax.kwargs of Breakout-MinAtar: "),
    (Gymnax(params={"max_steps_in_episode": "3"}), "with these settings: TypeError: "),
    (Gymnax(params={"max_steps_in_episode": 0}), "max_steps_in_episode = 0 must be at least 1"),
    (Jumanji("Snake"), "Did you mean 'Snake-v1'"),
    (Jumanji(kwargs={"rows": 6}), "jumanji.kwargs of Snake-v1: "),
    (Jumanji(observation="board"), "Known: grid, step_count, action_mask"),
    (Jumanji("Minesweeper-v0"), "actions of kind MultiDiscreteArray"),
    (Jumanji("RobotWarehouse-v0"), "actions of kind MultiDiscreteArray"),
  ],
)
def test_what_cannot_be_made_is_said_in_one_line(env, message):
  with pytest.raises(UserError) as error:
    environments.functional(env)
  assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize(
  "module, name, options, message",
  [
    ("brax", "Brax", {"name": "Hopper"}, "Did you mean 'hopper'"),
    ("brax", "Brax", {"kwargs": {"wind": 3}}, "brax.kwargs of inverted_pendulum: "),
    ("mujoco_playground", "Playground", {"name": "Cartpole"}, "Did you mean 'Cartpole"),
    ("mujoco_playground", "Playground", {"config": {"wind": 3}}, "playground.config of Cartpole"),
    (
      *("mujoco_playground", "Playground", {"config": {"ctrl_dt": 0.001}}),
      "in ctrl_dt = 0.001 the physics makes no step; write at least sim_dt = 0.01",
    ),
    (
      *("mujoco_playground", "Playground", {"config": {"episode_length": 0}}),
      "episode_length = 0 must be at least 1",
    ),
    (
      *("craftax", "Craftax", {"params": {"max_timesteps": -1}}),
      "max_timesteps = -1 must be at least 1",
    ),
  ],
)
def test_what_cannot_be_made_of_robots_is_said_in_one_line(
  module, name, options, message, promotion
):
  pytest.importorskip(module)
  with pytest.raises(UserError) as error:
    plugins = {"Brax": Brax, "Playground": Playground, "Craftax": Craftax}
    environments.functional(plugins[name](**options))
  assert message in str(error.value) and "\n" not in str(error.value)

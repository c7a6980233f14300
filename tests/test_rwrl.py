"""The Real-World RL suite: equal to a plain loop, and no worker is left behind."""

import contextlib
import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from typing import Any

import fakes
import numpy as np
import plain_rwrl
import pytest
from dm_control import suite
from gymnasium.vector import async_vector_env

from selftune.core import config, experiment
from selftune.core.api.errors import RunError, UserError
from selftune.plugins.envs import _rwrl_physics as physics
from selftune.plugins.envs import _rwrl_safety as safety
from selftune.plugins.envs._rwrl_block import Block, observation_size
from selftune.plugins.envs._rwrl_settings import Challenges, Parameter, domains
from selftune.plugins.envs._rwrl_stages import _hits
from selftune.plugins.envs.rwrl import Rwrl

DOMAINS = tuple(plain_rwrl.TASKS)
LEVELS = ("easy", "medium", "hard")
SEED = 1_234_567
UNPERTURBED = {
  field.name: field.default
  for field in dataclasses.fields(Challenges)
  if field.name.startswith("perturb")
}


def actions_of(domain: str, steps: int, num_envs: int = 1) -> np.ndarray:
  """[steps, B, A] within the bounds."""
  spec = domains()[domain]
  shape = (steps, num_envs, len(spec.action_minimum))
  return np.random.RandomState(0).uniform(spec.action_minimum, spec.action_maximum, shape)


def play(plugin: Rwrl, seeds: tuple[int, ...], actions: np.ndarray):
  """Observations [steps + 1, B, D], rewards and firsts [steps + 1, B]."""
  with contextlib.closing(plugin.make(seeds)) as pool:
    steps = [pool.reset()]
    for action in actions:
      pool.send(action)
      steps.append(pool.recv())
  assert all((step.discount == 1).all() for step in steps)
  return tuple(np.stack([getattr(s, f) for s in steps]) for f in ("observation", "reward", "first"))


def assert_equal_to_the_plain_loop(domain, challenges, settings, seeds, actions, **plain):
  plugin = Rwrl(domain, challenges=challenges, num_workers=2)
  observations, rewards, firsts = play(plugin, seeds, actions)
  for i, seed in enumerate(seeds):
    loop = plain_rwrl.PlainRwrl(domain, seed, settings, **plain)
    want = plain_rwrl.play(loop, actions[:, i])
    got = observations[:, i], rewards[:, i], firsts[:, i]
    for name, got_array, want_array in zip(
      ("observation", "reward", "first"), got, want, strict=True
    ):
      np.testing.assert_array_equal(got_array, want_array, f"{name} of environment {i}")


@pytest.mark.parametrize(
  "domain, level",
  [
    pytest.param(domain, level, marks=[pytest.mark.slow] if costly and level != "hard" else [])
    for domain, costly in zip(DOMAINS, (False, False, True, True), strict=True)
    for level in LEVELS
  ],
)
def test_a_stream_equals_the_plain_loop(domain, level):
  """1,030 steps, over the end of an episode."""
  challenges = dataclasses.replace(domains()[domain].levels[level], **UNPERTURBED)
  settings, actions = plain_rwrl.level(level), actions_of(domain, 1030)
  assert_equal_to_the_plain_loop(domain, challenges, settings, (SEED,), actions)


@pytest.mark.slow
def test_perturbed_streams_of_several_environments_equal_the_plain_loop():
  """Three environments in two workers, at a level as users get it, over the end of an episode."""
  domain, level, seeds = "cartpole", "hard", (3, 2**31 - 1, 0)
  settings = {**plain_rwrl.level(level), "pole_length": (0.5, 2.3, 0.15)}
  actions = actions_of(domain, 1010, len(seeds))
  by_level = play(Rwrl(domain, level, num_workers=2), seeds, actions)
  for i, seed in enumerate(seeds):
    want = plain_rwrl.play(plain_rwrl.PlainRwrl(domain, seed, settings), actions[:, i])
    for got, wanted in zip(by_level, want, strict=True):
      np.testing.assert_array_equal(got[:, i], wanted)


SINGLE = {
  "action delay": {"action_delay": 7},
  "observation delay": {"observation_delay": 5},
  "reward delay": {"reward_delay": 11},
  "noise on actions": {"action_noise": 0.4},
  "noise on observations": {"observation_noise": 0.4},
  "dropped actions": {"dropped_actions": (0.2, 3)},
  "dropped sensors": {"dropped_observations": (0.2, 3)},
  "stuck actions": {"stuck_actions": (0.2, 3)},
  "stuck sensors": {"stuck_observations": (0.9, 2)},
  "repetition": {"action_repetition": (1.0, 4)},
  "repetition at times": {"action_repetition": (0.3, 4)},
  "extra dimensions": {"dummy_observations": 3},
  "dropped and stuck": {"dropped_actions": (0.1, 2), "stuck_observations": (0.1, 2)},
}


@pytest.mark.parametrize("name", SINGLE)
def test_each_challenge_alone_equals_the_plain_loop(name):
  seeds, actions = (SEED, SEED + 1), actions_of("walker", 60, 2)
  challenges = Challenges(**SINGLE[name])
  assert_equal_to_the_plain_loop("walker", challenges, SINGLE[name], seeds, actions)
  unchanged = play(Rwrl("walker", num_workers=1), seeds[:1], actions[:, :1])
  changed = play(Rwrl("walker", challenges=challenges, num_workers=1), seeds[:1], actions[:, :1])
  assert any(not np.array_equal(*pair) for pair in zip(unchanged, changed, strict=True))


@pytest.mark.parametrize(
  "settings",
  [
    {},
    {"observation_delay": 4},
    {"safety_observed": False, "multiobj_weight": 0.25},
    {"multiobj_weight": 0.5, "multiobj_observed": True, "reward_delay": 3},
  ],
)
@pytest.mark.parametrize("domain", DOMAINS)
def test_safety_and_objectives_equal_the_plain_loop(domain, settings):
  def constraints(it):
    return safety.satisfied(domain, it, domains()[domain].safety, 0.3, None)

  challenges = Challenges(safety=True, safety_coeff=0.3, **settings)
  actions, seeds = actions_of(domain, 25), (SEED,)
  assert_equal_to_the_plain_loop(
    domain, challenges, settings, seeds, actions, constraints=constraints
  )


def test_faults_equal_numpys_binomials():
  for p in (0.0, 0.01, 0.05, 0.1, 0.3, 0.5, 0.7, 0.95, 1.0):
    want = np.random.RandomState(3).binomial(1, p, 20_000)
    got = _hits(np.random.RandomState(3).random_sample(20_000), p)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("domain", DOMAINS)
def test_specs_are_those_of_the_suite(domain):
  base = {"cartpole": 5, "walker": 24, "quadruped": 78, "humanoid": 67}[domain]
  sizes = [observation_size(domain, it) for it in domains()[domain].levels.values()]
  assert sizes == [base, base + 10, base + 20, base + 50]
  with contextlib.closing(Rwrl(domain, "easy").make((0,))) as pool:
    assert pool.spec.observation.shape == (base + 10,)
    want = suite.load(domain, plain_rwrl.TASKS[domain]).action_spec()
    np.testing.assert_array_equal(pool.spec.action.minimum, want.minimum)
    np.testing.assert_array_equal(pool.spec.action.maximum, want.maximum)
    assert pool.spec.action.shape == want.shape and pool.spec.action.dtype == want.dtype


# The physics.


@pytest.mark.parametrize("domain", DOMAINS)
def test_models_without_textures_are_the_stock_ones_in_all_that_moves(domain):
  stock = suite.load(domain, plain_rwrl.TASKS[domain]).physics.model.ptr
  assert not differences(physics.load(domain, 0).physics.model.ptr, stock)


def differences(a: Any, b: Any) -> set[str]:
  """Names of the fields of two models that differ, but for looks and tables of names."""
  names = {name for name in dir(a) if isinstance(getattr(a, name), np.ndarray)}
  names -= {name for name in names if name.startswith(("mat_", "tex_", "name_", "names_", "_"))}
  assert len(names) > 200
  assert a.stat.meaninertia > 0
  changed = {name for name in names if not np.array_equal(getattr(a, name), getattr(b, name))}
  return changed | ({"stat"} if a.stat.meaninertia != b.stat.meaninertia else set())


@pytest.mark.parametrize(
  "domain, parameter, value, field, names, want",
  [
    ("cartpole", "pole_length", 2.0, "geom_size", ["pole_1"], [[0.045, 1.0, 0]]),
    ("cartpole", "pole_length", 2.0, "body_mass", ["pole_1"], [0.2]),
    ("cartpole", "pole_mass", 3.0, "body_mass", ["pole_1"], [3.0]),
    ("cartpole", "joint_damping", 0.1, "dof_damping", ["slider", "hinge_1"], [5e-4, 0.1]),
    ("cartpole", "slider_damping", 0.1, "dof_damping", ["slider", "hinge_1"], [0.1, 2e-6]),
    ("walker", "thigh_length", 0.4, "geom_size", ["left_thigh"], [[0.05, 0.4, 0]]),
    ("walker", "thigh_length", 0.4, "geom_pos", ["right_thigh"], [[0, 0, -0.4]]),
    ("walker", "thigh_length", 0.4, "body_pos", ["left_leg", "right_leg"], [[0, 0, -1.05]] * 2),
    ("walker", "torso_length", 0.5, "geom_size", ["torso"], [[0.07, 0.5, 0]]),
    ("walker", "torso_length", 0.5, "body_pos", ["left_thigh"], [[0, -0.05, -0.5]]),
    ("walker", "joint_damping", 3.0, "dof_damping", ["left_hip", "rootx"], [3.0, 0]),
    ("walker", "contact_friction", 0.3, "geom_friction", ["floor", "torso"], [[0.3, 0.1, 0.1]] * 2),
    ("quadruped", "shin_length", 0.8, "body_pos", ["ankle_back_left"], [[0.8, 0, -0.8]]),
    ("quadruped", "shin_length", 0.8, "geom_pos", ["shin_front_right"], [[0.4, 0, -0.4]]),
    ("quadruped", "joint_damping", 99.0, "dof_damping", ["knee_front_left"], [99.0]),
    ("quadruped", "contact_friction", 3.0, "geom_friction", ["toe_front_left"], [[3, 5e-3, 1e-4]]),
    ("quadruped", "contact_friction", 3.0, "geom_friction", ["floor"], [[3.0, 0.1, 0.1]]),
    (
      "humanoid",
      "contact_friction",
      0.4,
      "geom_friction",
      ["floor", "head"],
      [[0.4, 0.1, 0.1]] * 2,
    ),
    ("humanoid", "joint_damping", 2.0, "dof_damping", ["left_knee", "abdomen_z"], [2.0, 5.0]),
    ("humanoid", "head_size", 0.18, "geom_size", ["head"], [[0.18, 0, 0]]),
  ],
)
def test_perturbations_change_the_model(domain, parameter, value, field, names, want):
  model = perturbed(domain, parameter, value).named.model
  got = np.squeeze([getattr(model, field)[name] for name in names])
  np.testing.assert_allclose(got, np.squeeze(want), atol=1e-12)


def perturbed(domain: str, parameter: str, value: float) -> Any:
  it = Challenges(
    perturb=parameter,
    perturb_scheduler="constant",
    perturb_start=value,
    perturb_min=value,
    perturb_max=value,
  )
  environment = physics.load(domain, 0)
  physics.Perturbation(domain, it)(environment.physics, np.random.RandomState(0))
  return environment.physics


def test_torso_density_changes_the_mass():
  light, heavy = (perturbed("quadruped", "torso_density", p) for p in (1000.0, 3000.0))
  torso = [it.named.model.body_mass["torso"] for it in (light, heavy)]
  assert not differences(light.model.ptr, physics.load("quadruped", 0).physics.model.ptr)
  assert torso[1] == pytest.approx(torso[0] + 2000 * 4 / 3 * np.pi * 0.3 * 0.27 * 0.2)


@pytest.mark.parametrize(
  "domain, parameter",
  [
    (d, p)
    for d in DOMAINS
    for p in domains()[d].parameters
    # Elsewhere the suite's edit at the stock value is not the stock model.
    if p != "contact_friction" and (d, p) != ("walker", "torso_length")
  ],
)
def test_stock_values_give_the_stock_model(domain, parameter):
  start = domains()[domain].parameters[parameter].start
  got = perturbed(domain, parameter, start).model.ptr
  assert not differences(got, physics.load(domain, 0).physics.model.ptr)


class Fixed:
  """Stands for a generator: what it draws is given."""

  def __init__(self, *changes: float):
    self.changes = list(changes)

  def normal(self, scale):
    return self.changes.pop(0) * scale

  def uniform(self, low, high):
    return low + 0.25 * (high - low)


@pytest.mark.parametrize(
  "scheduler, want",
  [
    ("constant", [1.0, 1.0, 1.0, 1.0]),
    ("random_walk", [1.5, 0.5, 3.0, 3.0]),
    ("drift_pos", [1.5, 2.5, 3.0, 3.0]),
    ("drift_neg", [0.5, 0.0, 0.0, 0.0]),
    ("cyclic_pos", [1.5, 2.5, 1.0, 2.5]),
    ("cyclic_neg", [0.5, 1.0, 1.0, 1.0]),
    ("uniform", [0.75] * 4),
    ("saw_wave", [0.5, 1.0, 3.0, 0.0]),
  ],
)
def test_schedulers(scheduler, want):
  p, draws = Parameter(start=1.0, min=0.0, max=3.0, std=0.5), Fixed(1, -2, 7, 3)
  value, sign, got = p.start, 1.0, []
  for _ in want:
    value, sign = physics.next_value(scheduler, p, value, sign, draws)  # pyright: ignore
    got.append(value)
  assert got == want


def test_physics_change_at_the_first_reset_and_every_period_after():
  it = Challenges(perturb="pole_length", perturb_period=2)
  block = Block("cartpole", it, (0, 1), 2, ahead=0)
  lengths = []
  for _ in range(5):
    block.reset()
    lengths.append([e.physics.named.model.geom_size["pole_1", 1] for e in block._environments])
  lengths = 2 * np.array(lengths)
  assert ((0.3 <= lengths) & (lengths <= 3.0)).all() and (lengths != 1).all()
  np.testing.assert_array_equal(lengths[[0, 2]], lengths[[1, 3]])
  assert len(np.unique(lengths)) == 6  # each environment has its own


# The constraints, one state that violates each.


@pytest.mark.parametrize(
  "domain, set_state, want",
  [
    ("cartpole", {}, [True, True, True]),
    ("cartpole", {"qpos": {"slider": 2.1}}, [False, None, True]),
    ("cartpole", {"qpos": {"hinge_1": 0.1}, "qvel": {"hinge_1": 0.6}}, [True, True, False]),
    ("cartpole", {"qpos": {"hinge_1": 0.2}, "qvel": {"hinge_1": 0.6}}, [True, True, True]),
    ("cartpole", {"qacc": {"slider": -131.0}}, [True, False, True]),
    ("walker", {}, [True, True, True, True]),
    ("walker", {"qvel": {"left_knee": -66.0}}, [True, False, True, True]),
    ("walker", {"qpos": {"rooty": -1.7}}, [True, True, False, False]),
    ("walker", {"qpos": {"rooty": 1.7}}, [True, True, True, False]),
    ("quadruped", {}, [True, True, True, True]),
    ("quadruped", {"qpos": {"yaw_front_left": -1.1}}, [False, True, True, True]),
    ("quadruped", {"qvel": {"knee_back_left": 21.0}}, [True, False, True, True]),
    ("quadruped", {"sensordata": {"force_toe_back_left": 20_001.0}}, [True, True, True, False]),
    ("humanoid", {}, [True, True, True, True, True]),
    ("humanoid", {"qpos": {"left_elbow": -3.2}}, [False, True, True, True, None]),
    ("humanoid", {"qvel": {"left_knee": -91.0}}, [True, False, True, True, True]),
    ("humanoid", {"sensordata": {"head_touch": 101.0}}, [True, True, True, False, True]),
    ("humanoid", {"sensordata": {"left_left_foot_touch": 8001.0}}, [True] * 4 + [False]),
  ],
)
def test_constraints(domain, set_state, want):
  it = physics.load(domain, 0).physics
  with it.reset_context():
    for field in ("qpos", "qvel"):
      for name, value in set_state.get(field, {}).items():
        getattr(it.named.data, field)[name] = value
  for field in ("qacc", "sensordata"):
    for name, value in set_state.get(field, {}).items():
      getattr(it.named.data, field)[name] = value
  got = safety.satisfied(domain, it, domains()[domain].safety, 1.0, None)
  assert len(got) == len(want) == safety.count(domain, False)
  assert [g if w is not None else None for g, w in zip(got, want, strict=True)] == want


def test_limit_on_the_change_of_actions():
  it = Challenges(safety=True, limit_action_change=True)
  actions = np.array([0.9, 1.0, -0.6, -0.5, 0.99]).reshape(5, 1, 1)  # limit 1.5
  observations, _, _ = play(Rwrl("cartpole", challenges=it), (0,), actions)
  assert observations[:, 0, -1].tolist() == [1, 1, 1, 0, 1, 1]


# Scores. The means of six episodes of the original suite.
RANDOM_POLICY = {
  "cartpole": {"none": 33.6, "easy": 26.4, "medium": 27.9, "hard": 67.2},
  "walker": {"none": 32.8, "easy": 32.9, "medium": 39.8, "hard": 61.7},
  "quadruped": {"none": 499.4, "easy": 503.2, "medium": 513.3, "hard": 262.7},
  "humanoid": {"none": 1.1, "easy": 1.2, "medium": 1.4, "hard": 2.2},
}


@pytest.mark.slow
@pytest.mark.parametrize("level", ["none", *LEVELS])
@pytest.mark.parametrize("domain", DOMAINS)
def test_random_policy_scores_are_those_of_the_suite(domain, level):
  """Six episodes on end, as theirs: a pool's first one repeats its first reward until the delay."""
  num_envs, episodes = 2, 6
  actions = actions_of(domain, 1001 * episodes - 1, num_envs)
  _, rewards, firsts = play(Rwrl(domain, level), tuple(range(num_envs)), actions)
  starts = np.flatnonzero(firsts[:, 0])
  assert starts.tolist() == [1001 * episode for episode in range(episodes)]
  returns = np.add.reduceat(rewards, starts)
  error = returns.std(ddof=1) * np.sqrt(1 / returns.size + 1 / episodes)
  print(f"{domain} {level}: {returns.mean():.1f} +- {returns.std(ddof=1):.1f}")
  assert abs(returns.mean() - RANDOM_POLICY[domain][level]) < 3 * error


# Processes.


def alive(pid: int) -> bool:
  try:
    with open(f"/proc/{pid}/stat") as file:
      return file.read().rpartition(")")[2].split()[0] not in "ZX"
  except FileNotFoundError:
    return False


def wait_until_gone(pids, seconds: float = fakes.SOON):
  deadline = time.monotonic() + seconds
  while any(map(alive, pids)):
    assert time.monotonic() < deadline, f"still alive: {[p for p in pids if alive(p)]}"
    time.sleep(0.02)


def stepping_pool(num_envs: int = 4, domain: str = "humanoid"):
  pool = Rwrl(domain, "easy", num_workers=2).make(tuple(range(num_envs)))
  pool.reset()
  return pool, actions_of(domain, 1, num_envs)[0]


@pytest.mark.parametrize("when", ["stepping", "waiting"])
def test_a_killed_worker_is_a_clear_error_and_ends_the_others(when):
  pool, action = stepping_pool()
  pids = pool.pids
  assert len(pids) == 2 and all(map(alive, pids))
  if when == "stepping":
    pool.send(action)
  os.kill(pids[1], signal.SIGKILL)
  start = time.monotonic()
  with pytest.raises(RunError, match=rf"rwrl.*worker {pids[1]} was killed by SIGKILL"):
    if when == "stepping":
      pool.recv()  # passes where the worker had answered before it was killed
    wait_until_gone(pids[1:])
    for _ in range(3):
      pool.send(action)
      pool.recv()
  assert time.monotonic() - start < fakes.SOON
  wait_until_gone(pids)
  pool.close()


@pytest.mark.filterwarnings("ignore:.*ERROR")  # Gymnasium shows the worker's traceback
def test_a_worker_that_fails_says_why():
  pool, action = stepping_pool(domain="cartpole")
  with pytest.raises(RunError, match="PhysicsError"):
    for _ in range(5):  # the action delay
      pool.send(np.full_like(action, np.nan))
      pool.recv()
  wait_until_gone(pool.pids)


@pytest.mark.parametrize("in_flight", [False, True])
def test_nothing_is_left_after_close(in_flight):
  pool, action = stepping_pool()
  if in_flight:
    pool.send(action)
  start = time.monotonic()
  pool.close()
  assert time.monotonic() - start < fakes.SOON
  assert not any(map(alive, pool.pids))
  pool.close()


PARENT = """
import sys, time
from selftune.plugins.envs.rwrl import Rwrl
pool = Rwrl("cartpole", "hard", num_workers=2).make((0, 1, 2))
pool.reset()
children = lambda pid: open(f"/proc/{pid}/task/{pid}/children").read().split()
import os
mine = children(os.getpid())
print(*mine, *[grandchild for child in mine for grandchild in children(child)], flush=True)
while sys.argv[1] == "on":
  pool.send([[0.0]] * 3)
  pool.recv()
"""


@pytest.mark.parametrize("how", ["killed", "returns"])
def test_nothing_is_left_after_the_parent(how):
  """Workers, the server that forks them, and Python's resource tracker."""
  parent = subprocess.Popen(
    [sys.executable, "-c", PARENT, "off" if how == "returns" else "on"],
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    text=True,
  )
  assert parent.stdout is not None
  pids = [int(pid) for pid in parent.stdout.readline().split()]
  assert len(pids) == 4
  if how == "killed":
    parent.kill()
  parent.wait(20)
  wait_until_gone(pids)


def test_workers_leave_signals_to_the_parent_and_do_not_load_jax():
  pool, action = stepping_pool(domain="cartpole")
  for pid in pool.pids:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
      os.kill(pid, number)
    with open(f"/proc/{pid}/maps") as file:
      assert "jaxlib" not in file.read()
  pool.send(action)
  pool.recv()
  pool.close()


@pytest.mark.slow
def test_workers_start_in_any_folder(tmp_path):
  """Files of the user's are not taken for libraries; a TMPDIR too long for sockets is not used."""
  for name in ("optax", "gymnasium", "numpy", "signal"):
    (tmp_path / f"{name}.py").write_text(f"raise SystemExit('not {name}')")
  (tmp_path / (100 * "x")).mkdir()
  (tmp_path / "bin").mkdir()  # of the script, which Python puts first on the path, as of `selftune`
  make = "from selftune.plugins.envs.rwrl import Rwrl; pool = Rwrl(num_workers=2).make((1, 2))"
  show = "print(pool.reset().reward.tolist()); import tempfile; print(tempfile.gettempdir())"
  code = f"if __name__ == '__main__':\n  {make}; {show}; pool.close()\n"
  (tmp_path / "bin" / "script.py").write_text(code)
  done = subprocess.run(
    [sys.executable, "bin/script.py"],
    cwd=tmp_path,
    env=os.environ | {"TMPDIR": str(tmp_path / (100 * "x"))},
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert (done.returncode, done.stderr) == (0, "")
  assert done.stdout.splitlines() == ["[0.0, 0.0]", str(tmp_path / (100 * "x"))]


def test_workers_that_cannot_start_are_a_clear_error(monkeypatch):
  def refuse(*_, **__):
    raise OSError("AF_UNIX path too long")

  monkeypatch.setattr(async_vector_env, "AsyncVectorEnv", refuse)
  with pytest.raises(RunError, match=r"^the workers of rwrl cannot be started: AF_UNIX path too"):
    Rwrl().make((1,))


def test_staggered_blocks_end_their_first_episodes_apart():
  """Three blocks of two, two and one environments; from then on all episodes are whole."""
  pool = Rwrl("cartpole", num_workers=3).make((0, 1, 2, 3, 4))
  action = np.zeros((5, *pool.spec.action.shape))
  with contextlib.closing(pool):
    firsts = [pool.reset(stagger=True).first]
    for _ in range(2100):
      pool.send(action)
      firsts.append(pool.recv().first)
  starts = [list(np.flatnonzero(row)) for row in np.array(firsts).T]
  assert starts[0] == starts[1] == [0, 1001, 2002]  # a step of its own begins each episode
  assert starts[2] == starts[3] == [0, 1001 - 333, 2002 - 333]
  assert starts[4] == [0, 1001 - 666, 2002 - 666]


def test_steps_run_between_send_and_recv():
  pool, action = stepping_pool()
  replies = pool._blocks.parent_pipes
  for pid in pool.pids:
    os.kill(pid, signal.SIGSTOP)
  pool.send(action)  # which waits for no worker: they stand still
  assert not any(reply.poll() for reply in replies)
  for pid in pool.pids:
    os.kill(pid, signal.SIGCONT)
  assert all(reply.poll(60) for reply in replies)  # they have stepped, and nobody has received
  assert not pool.recv().first.any()
  pool.close()


# Mistakes, and gin.


@pytest.mark.parametrize(
  "make, message",
  [
    (lambda: Rwrl("cartpol"), r"rwrl\.domain = 'cartpol' .* Did you mean 'cartpole'"),
    (lambda: Rwrl("walker", "eazy"), r"rwrl\.level = 'eazy' .* Did you mean 'easy'"),  # type: ignore
    (
      lambda: Rwrl("walker", "easy", Challenges(action_delay=3)),
      r"rwrl\.level = 'easy'.*action_delay.*write rwrl\.level = 'none'",
    ),
    (
      lambda: Rwrl("walker", challenges=Challenges(perturb="thigh_lenght")),
      r"perturb = 'thigh_lenght' .* Did you mean 'thigh_length'",
    ),
    (
      lambda: Rwrl("walker", challenges=Challenges(perturb="pole_length")),
      r"walker has other parameters: .*'pole_length'",
    ),
    (
      lambda: Rwrl(challenges=Challenges(perturb="pole_mass", perturb_scheduler="cyclic")),
      r"perturb_scheduler = 'cyclic' .*Did you mean 'cyclic_pos' or 'cyclic_neg'",
    ),
    (lambda: Rwrl(challenges=Challenges(perturb_min=0.1)), r"name one of pole_length, pole_mass"),
    (
      lambda: Rwrl(challenges=Challenges(dropped_actions=(2.0, 1))),
      r"dropped_actions = \(2\.0, 1\)",
    ),
    (lambda: Rwrl(challenges=Challenges(stuck_actions=(0.5, 0))), r"steps of at least 1"),
    (lambda: Rwrl(challenges=Challenges(safety_coeff=0.3)), r"safety_coeff is .* safety = True"),
    (
      lambda: Rwrl(challenges=Challenges(perturb="pole_mass", perturb_min=5.0, perturb_max=1.0)),
      r"perturb_min = 5\.0 must be at most perturb_max = 1\.0",
    ),
    (
      lambda: Rwrl(challenges=Challenges(perturb="pole_length", perturb_min=5.0)),
      r"perturb_min = 5\.0 must be at most perturb_max = 3\.0",  # the suite's own
    ),
    (
      lambda: Rwrl(challenges=Challenges(perturb="pole_length", perturb_start=5.0)),
      r"perturb_start = 5\.0 must be between perturb_min = 0\.3 and perturb_max = 3\.0",
    ),
    (
      lambda: Rwrl(challenges=Challenges(multiobj_weight=0.5)),
      r"safety = False.*need safety = True",
    ),
  ],
)
def test_mistakes_are_told_before_any_worker_starts(make, message):
  with pytest.raises(UserError, match=message):
    make()


GIN = """
include 'base.gin'
include 'suites/small.gin'
include 'algos/impala.gin'
include 'envs/rwrl.gin'
train.total_env_steps = 100
"""


def load(tmp_path, *bindings: str) -> Any:
  (tmp_path / "rwrl.gin").write_text(GIN)
  root = config.load(str(tmp_path / "rwrl.gin"), bindings).root
  assert isinstance(root, experiment.Train)
  return root.env


def test_gin_sets_a_level_or_single_challenges(tmp_path):
  level = load(tmp_path, "rwrl.domain = 'walker'", "rwrl.level = 'medium'")
  assert level == Rwrl("walker", "medium")
  bindings = ("rwrl_challenges.observation_delay = 6", "rwrl_challenges.stuck_actions = (0.1, 2)")
  single = load(tmp_path, *bindings)
  assert single == Rwrl(challenges=Challenges(observation_delay=6, stuck_actions=(0.1, 2)))
  with pytest.raises(UserError, match=re.escape("rwrl.level = 'easy'")):
    load(tmp_path, "rwrl.level = 'easy'", *bindings)

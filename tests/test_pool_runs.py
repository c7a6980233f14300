"""Runs in a pool on the host equal those on the device and those alone; frozen, resumed."""

import contextlib
import dataclasses
from typing import Any

import fakes
import jax
import numpy as np
import pytest
import small

from selftune.core import config
from selftune.core import train as training
from selftune.core.config import discovery
from selftune.core.experiment import Agent
from selftune.core.runs.device import Runs
from selftune.core.runs.pool import PoolRuns
from selftune.core.runs.settings import Members
from selftune.plugins.envs.mountain_car import MountainCar
from selftune.plugins.metaopt.ac_lambda import AcLambda
from selftune.plugins.metaopt.metagradient import Metagradient
from selftune.plugins.networks.tile_coding import TileCoding
from selftune.plugins.tuners.metatrace import Metatrace
from selftune.plugins.tuners.metatrace_mixed import MetatraceMixed

discovery.load_all()
CAR = MountainCar(max_steps=11)
SEEDS = (5, 6, 7)
VARIED = {"ac_lambda.alpha": (2**-5, 2**-7, 2**-6), "metatrace_mixed.mu": (0.01, 0.1, 0.001)}
MIXED = Agent(network=TileCoding(), metaopt=AcLambda(MetatraceMixed()))


def make(agent, env=CAR, seeds=SEEDS, varied=VARIED, devices=1, restart=0, **each):
  members = Members(agent, seeds, varied, **each)
  return contextlib.closing(PoolRuns(members, env, jax.devices()[:devices], restart))


def assert_close(actual, expected, rtol=1e-5):
  jax.tree.map(
    lambda a, e: np.testing.assert_allclose(a, e, rtol=rtol, atol=1e-6), actual, expected
  )


@dataclasses.dataclass
class AsPool:
  """The very environments that `Runs` steps on the device, as a pool on the host."""

  env: Any
  runs: tuple[int, ...]

  def make(self, seeds):
    assert len(seeds) == len(self.runs)
    self.num_envs = len(seeds)
    self.spec, self._step = self.env.spec, jax.jit(jax.vmap(self.env.step))
    return self

  def reset(self, stagger=False):
    keys = [jax.random.split(jax.random.split(jax.random.key(s), 4)[0], 1)[0] for s in self.runs]
    self._state, timestep = jax.vmap(self.env.init)(jax.numpy.stack(keys))
    return jax.tree.map(np.asarray, timestep)

  def send(self, actions):
    self._state, self._timestep = self._step(self._state, actions)

  def recv(self):
    return jax.tree.map(np.asarray, self._timestep)

  def close(self):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("lag", [0, 3])
def test_runs_in_a_pool_are_those_on_the_device(lag):
  """Over ends of episodes, each run with its own settings; ends in the same steps."""
  with make(MIXED, AsPool(CAR, SEEDS), lag=lag) as pool:
    states, ends = pool.advance(pool.init(), 40)
  runs = Runs(Members(MIXED, SEEDS, VARIED, lag=lag), CAR, jax.devices()[:1], fuse=False)
  want, want_ends = runs.advance(runs.init(), 40)
  np.testing.assert_array_equal(ends.ended, want_ends.ended)
  np.testing.assert_array_equal(ends.length, want_ends.length)
  assert ends.ended.sum() >= 9
  assert_close(states.learner.params, want.learner.params)
  assert_close(states.learner.meta_state, want.learner.meta_state)
  assert not np.allclose(*np.asarray(states.learner.meta_state.tuner.shared.beta)[:2], atol=0.01)


@pytest.mark.slow
def test_a_run_among_others_is_the_run_alone():
  with make(MIXED, devices=2) as pool:
    together, _ = pool.advance(pool.init(), 30)
  varied = {name: values[1:2] for name, values in VARIED.items()}
  with make(MIXED, seeds=SEEDS[1:2], varied=varied) as pool:
    alone, _ = pool.advance(pool.init(), 30)
  mine = jax.tree.map(lambda x: x[1:2], together)
  assert_close(alone.learner.params, mine.learner.params)
  np.testing.assert_array_equal(alone.timestep.observation, mine.timestep.observation)


@pytest.mark.slow
def test_diverged_and_finished_runs_stand_still_and_disturb_nobody():
  agent = Agent(network=TileCoding(), metaopt=AcLambda(Metatrace()))
  good = {"ac_lambda.alpha": (0.01, 0.01, 0.01)}
  bad = {"ac_lambda.alpha": (0.01, 1e38, 0.01)}
  with make(agent, varied=good, max_episodes=2) as pool:
    want, _ = pool.advance(pool.init(), 40)
  with make(agent, varied=bad, max_episodes=2) as pool:
    states, ends = pool.advance(pool.init(), 40)
    assert list(pool.members.active(states)) == [False] * 3
  assert list(states.learner.failure >= 0) == [False, True, False]
  assert list(states.finished)[::2] == [2, 2] and list(states.env_steps)[::2] == [24, 24]
  assert list(ends.ended.sum((1, 2)))[::2] == [2, 2]
  rows = lambda x: np.asarray(x)[::2]
  jax.tree.map(
    lambda a, e: np.testing.assert_array_equal(rows(a), rows(e)),
    states.learner.params,
    want.learner.params,
  )


@pytest.mark.slow
def test_agents_that_learn_from_batches():
  """Two seeds of a metagradient agent, four environments each, are these agents alone."""
  agent = small.agent(Metagradient(tune=("*.cost",)))
  shape = {"num_envs": 4, "unroll_length": 5, "total_updates": 10}
  with make(agent, CAR, (3, 4), {}, **shape) as pool:
    together, ends = pool.advance(pool.init(), 4)
  assert ends.ended.shape == (2, 20, 4) and ends.ended.any()
  with make(agent, CAR, (4,), {}, **shape) as pool:
    alone, _ = pool.advance(pool.init(), 4)
  mine = jax.tree.map(lambda x: x[1:], (together.learner.params, together.learner.meta_state))
  assert_close((alone.learner.params, alone.learner.meta_state), mine, rtol=1e-4)


def test_training_in_a_pool_is_logged_by_run_and_resumes(tmp_path):
  path = tmp_path / "online.gin"
  path.write_text("""
include 'algos/ac_lambda.gin'
tuner = @metatrace()
include 'envs/mountain_car.gin'
agent.network = @linear()
train.runtime = @runs()
train.total_env_steps = 250
train.log_seconds = 0.0
train.writers = (@jsonl(),)
runs.settings = {'ac_lambda.alpha': (0.01, 0.001)}
runs.iterations = 50
""")
  part = training.train(str(path), ("train.total_env_steps = 250",), tmp_path / "run")
  assert part.done and part.env_steps == 500
  rows = fakes.rows(tmp_path / "run", "episodes")
  assert sorted((row["run"], row["return"]) for row in rows) == [(0, -200.0), (1, -200.0)]
  table = (tmp_path / "run" / "runs.csv").read_text().splitlines()
  assert table[1:] == ["0,0,0.01,1,250,False", "1,0,0.001,1,250,False"]
  assert config.load(str(path)).root.runtime.settings


STAC = (
  "objective.corrector = @leaky_vtrace()",
  "agent.metaopt = @metagradient()",
  "metagradient.tune = ('leaky_vtrace.gamma', '*.cost')",
)


@pytest.mark.slow
def test_runs_log_what_a_single_run_logs(config, tmp_path):
  many = ["train.runtime = @runs()", "runs.iterations = 2", "runs.repeats = 2"]
  training.train(config, STAC, tmp_path / "one")
  training.train(config, [*STAC, *many], tmp_path / "many")
  one, all_of_them = (fakes.rows(tmp_path / name) for name in ("one", "many"))
  assert set(one[-1]) <= set(all_of_them[-1]) and len(all_of_them) == 3
  seen = [name for name in one[-1] if name.startswith(("loss/", "metagrad/")) or "gamma" in name]
  assert len(seen) >= 8
  for row in all_of_them:
    for name in seen:
      least, mean, greatest = (row[name + end] for end in ("/least", "", "/greatest"))
      assert least <= mean <= greatest
  assert one[-1]["updates"] == all_of_them[-1]["updates"] == 6


@pytest.mark.slow
def test_resumed_runs_start_new_episodes():
  with make(MIXED) as pool:
    states, _ = pool.advance(pool.init(), 5)
    saved = jax.tree.map(np.asarray, states.learner.params)
  with make(MIXED, restart=1) as pool:
    states = pool.resume(states)
    assert states.timestep.first.all() and (states.returns == 0).all()
    assert list(states.env_steps) == [5] * 3
    assert pool.env_seeds != make(MIXED).thing.env_seeds
  assert_close(states.learner.params, saved, rtol=0)

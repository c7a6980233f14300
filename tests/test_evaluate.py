"""Evaluation: which episodes count, how the agent acts, and in which environments."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from selftune.core.agent.distributions import Categorical
from selftune.core.api.types import Episode, TimeStep
from selftune.core.evaluation import evaluate
from selftune.core.evaluation.playing import Played
from selftune.core.machine import seeding
from selftune.core.record.workdir import Workdir
from selftune.plugins.envs.atari import Atari
from selftune.plugins.envs.envpool import EnvPool


class ScriptedPool:
  """Environments whose episodes have the given lengths, and a reward of 1 a step."""

  def __init__(self, lengths):
    self.lengths = [list(one) for one in lengths]
    self.num_envs, self.spec = len(lengths), small.SPEC
    self.age = np.zeros(self.num_envs, int)
    self.actions = []

  def reset(self, stagger=False):
    return self._timestep(np.zeros(self.num_envs), np.ones(self.num_envs, bool))

  def send(self, actions):
    self.actions.append(actions)

  def recv(self):
    first = self.age == [one[0] for one in self.lengths]
    for i in np.flatnonzero(first):
      self.lengths[i].pop(0)
    self.age = np.where(first, 0, self.age + 1)
    return self._timestep(np.where(first, 0.0, 1.0), first)

  def _timestep(self, reward, first):
    ones = np.ones(self.num_envs, np.float32)
    return TimeStep(self.age.astype(np.float32), reward.astype(np.float32), ones, first)


class Scripted:
  """An agent that acts as it is told."""

  def __init__(self, act, initial_state=lambda batch: ()):
    self.act, self.distribution = act, Categorical(2)
    self.network = types.SimpleNamespace(initial_state=initial_state)


def still(actor, timestep, core_state, key, t, greedy):
  return jnp.zeros(timestep.first.shape, jnp.int32), None, core_state


def played(pool, episodes, act=still, unroll_length=4, greedy=False, max_steps=1000):
  key = jax.random.key(0)
  return evaluate.play(Scripted(act), None, pool, episodes, max_steps, unroll_length, key, greedy)


def play(*args, **kwargs):
  episodes, cut, missing = played(*args, **kwargs)
  assert cut == missing == 0
  return episodes


def test_every_environment_contributes_its_quota_however_long_its_episodes_are():
  pool = ScriptedPool([[2, 1, 9, 99], [7, 3, 99], [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 99]])
  episodes = play(pool, episodes=7)
  assert sorted(e.length for e in episodes) == [1, 1, 1, 2, 3, 7, 9]
  assert [e.episode_return for e in episodes] == [e.length for e in episodes]


def test_one_episode_of_one_environment():
  (episode,) = play(ScriptedPool([[5, 99]]), episodes=1)
  assert (episode.episode_return, episode.length) == (5.0, 5)


def test_an_episode_that_does_not_end_is_cut_and_its_environment_plays_no_more():
  pool = ScriptedPool([[2, 99, 1], [5, 4, 3, 99], [6, 9, 9]])  # of 5 steps is whole
  it = played(pool, episodes=9, max_steps=5)
  assert [(e.length, e.episode_return) for e in it.episodes] == [
    (length, length) for length in (2, 5, 5, 5, 4, 3)
  ]
  assert (it.cut, it.missing) == (2, 3)
  assert it.note("5 steps") == (
    "2 of 6 episodes did not end within 5 steps: cut there, with the return so far. "
    "3 more were not played: what does not end cannot be begun anew"
  )


def test_nothing_is_said_where_every_episode_ends():
  it = played(ScriptedPool([[5, 5, 99]]), episodes=2, max_steps=5)
  assert (it.cut, it.missing, it.note("5 steps")) == (0, 0, "")


def test_greedy_takes_the_mode_and_a_sample_does_not():
  logits = jnp.log(jnp.array([0.4, 0.6]))
  distribution = Categorical(2)

  def act(actor, timestep, core_state, key, t, greedy):
    mu = jnp.broadcast_to(logits, (timestep.first.shape[0], 2))
    sample = distribution.sample(jax.random.fold_in(key, t), mu)
    return distribution.mode(mu) if greedy else sample, mu, core_state

  pools = [ScriptedPool([[200, 9]] * 8) for _ in range(2)]
  for pool, greedy in zip(pools, (True, False), strict=True):
    play(pool, 8, act, greedy=greedy)
  assert np.unique(pools[0].actions) == [1]
  assert abs(np.mean(pools[1].actions) - 0.6) < 0.05


def test_a_random_head_acts_for_a_trajectory_as_in_training():
  def act(actor, timestep, core_state, key, t, greedy):
    drawn = jax.random.randint(key, timestep.first.shape, 0, 2**30)
    return drawn + 0 * t, None, core_state

  pool = ScriptedPool([[12, 9]])
  play(pool, 1, act, unroll_length=4)
  drawn = np.array(pool.actions).reshape(-1)[:12].reshape(3, 4)
  assert (drawn == drawn[:, :1]).all() and len(np.unique(drawn)) == 3


def test_recurrent_state_is_carried():
  def act(actor, timestep, core_state, key, t, greedy):
    return core_state, None, core_state + 1

  it = Scripted(act, lambda batch: jnp.zeros(batch, jnp.int32))
  pool = ScriptedPool([[5, 9]] * 2)
  evaluate.play(it, None, pool, 2, 99, 4, jax.random.key(0))
  np.testing.assert_array_equal(pool.actions, np.stack([np.arange(6)] * 2, 1))


def test_watchers_see_every_timestep():
  seen = []
  watch = lambda timestep, finished: seen.append((list(timestep.first), finished))
  evaluate.play(
    Scripted(still), None, ScriptedPool([[2, 9]]), 1, 99, 4, jax.random.key(0), watchers=[watch]
  )
  assert seen == [([True], 0), ([False], 0), ([False], 0), ([True], 1)]


def test_summary():
  played = Played([Episode(0, 1.0, 10), Episode(0, 2.0, 20), Episode(0, 6.0, 60)], 1, 0)
  expected = {"mean": 3.0, "std": np.sqrt(14 / 3), "min": 1.0, "max": 6.0}
  assert evaluate.summary(EnvPool(), played) == expected | {
    "episodes": 3,
    "cut": 1,
    "length": 30.0,
  }
  atari = evaluate.summary(Atari(game="breakout"), played)
  assert atari["normalized"] == pytest.approx((3.0 - 1.7) / (30.5 - 1.7))


def test_seeds_are_different_ones_that_training_has_not_seen():
  free = seeding.evaluation_seeds(3, 8, set())
  assert len(set(free)) == 8 and all(0 <= seed < 2**31 for seed in free)
  assert not set(free) & set(seeding.env_seeds(3, 0, 0, 1000))
  kept = seeding.evaluation_seeds(3, 8, set(free[:5]))
  assert kept[:3] == free[5:] and not set(kept) & set(free[:5])
  assert seeding.evaluation_seeds(3, 8, set()) == free != seeding.evaluation_seeds(4, 8, set())


def test_starts_of_a_run_that_are_none_are_left_out(tmp_path):
  starts = ['{"env_seeds": [[[1, 2], [3]]]}', "null", '{"env_seeds": 7}', "{}", '{"env_seeds": [[4']
  (tmp_path / "restarts.jsonl").write_text("\n".join(starts))
  assert Workdir(tmp_path).env_seeds() == {1, 2, 3, 7}

"""Actors: trajectories against a plain loop over the raw environments."""

import functools
import itertools
import time

import fakes
import jax
import numpy as np
import pytest
import small
from dm_env import specs

from selftune.core.agent.functions import Functions
from selftune.core.api.errors import UserError
from selftune.core.api.timesteps import as_specified
from selftune.core.api.types import ActorParams, TimeStep
from selftune.core.engine.actor import Actor, Interrupted
from selftune.plugins.envs.envpool import EnvPool
from selftune.plugins.metaopt.fixed import Fixed

T = 7
KEY = jax.random.key(3)
NEVER = lambda: False
COUNTING = fakes.Counting()


@functools.cache  # and with it what is compiled
def built(**kwargs) -> Functions:
  return Functions(small.agent(metaopt=Fixed(), network=fakes.Recurrent(), **kwargs), fakes.SPEC)


@functools.cache
def actor_params(agent: Functions, seed: int = 0) -> ActorParams:
  gamma = np.full(agent.behaviour.acting_heads, 0.9, np.float32)
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(agent.network.init, jax.random.key(0))
  params = jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape).astype(x.dtype), shapes)
  return jax.device_put(ActorParams(params, gamma), jax.devices()[0])


@functools.partial(jax.jit, static_argnums=0)
def act(agent, params, timestep, core_state, index, group, t):
  key = jax.random.fold_in(jax.random.fold_in(KEY, index), group)
  return agent.act(params, timestep, core_state, key, t)


@functools.partial(jax.jit, static_argnums=0)
def evaluate(agent, params, trajectory):
  """The policies [P, T, B, A], from the recurrent state that the trajectory holds."""
  x = trajectory
  out, _ = agent.network.unroll(params.params, x.timestep, x.core_state, params.gamma)
  return out.policy[:, :-1]


def close(got, expected):
  np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def make_actor(agent, env, *seeds, overlap=0) -> Actor:
  return Actor(agent, [env.make(s) for s in seeds], jax.devices()[0], KEY, T, overlap)


def plain_loop(agent, params, env, seeds, trajectories, group=0):
  """What one pool gives, written out: lists over time, and finished episodes by trajectory."""
  pool = env.make(seeds)
  timestep, core_state = pool.reset(), agent.network.initial_state(len(seeds))
  returns, lengths = [0.0] * len(seeds), [0] * len(seeds)
  for index in range(trajectories):
    timesteps, actions, behaviours, episodes = [timestep], [], [], []
    first_state = core_state
    for t in range(T):
      sample, mu, core_state = act(agent, params, timestep, core_state, index, group, t)
      pool.send(np.asarray(sample))
      timestep = pool.recv()
      timesteps.append(timestep)
      actions.append(sample)
      behaviours.append(mu)
      for b in range(len(seeds)):
        if timestep.first[b]:
          episodes.append((returns[b], lengths[b]))
          returns[b], lengths[b] = 0.0, 0
        else:
          returns[b] += float(timestep.reward[b])
          lengths[b] += 1
    stacked = jax.tree.map(lambda *x: np.stack(x), *timesteps)
    yield stacked, np.stack(actions), np.stack(behaviours), np.asarray(first_state), episodes


@pytest.mark.parametrize("pools", [((11, 12, 13, 14),), ((11, 12), (13, 14))])
def test_trajectories_equal_a_plain_loop_over_each_pool(pools):
  agent = built()
  params = actor_params(agent)
  actor = make_actor(agent, COUNTING, *pools)
  loops = [plain_loop(agent, params, COUNTING, seeds, 5, g) for g, seeds in enumerate(pools)]
  for index, expected in enumerate(zip(*loops, strict=True)):
    rollout = actor.unroll(params, index + 40, index, NEVER)
    got = rollout.trajectory
    timesteps, actions, behaviours, states, episodes = zip(*expected, strict=True)
    together = jax.tree.map(lambda *x: np.concatenate(x, axis=1), *timesteps)
    jax.tree.map(np.testing.assert_array_equal, got.timestep, together)
    np.testing.assert_array_equal(got.action, np.concatenate(actions, axis=1))
    close(got.behaviour, np.concatenate(behaviours, axis=1))
    np.testing.assert_array_equal(got.core_state, np.concatenate(states))
    assert sorted(rollout.episodes) == sorted(itertools.chain(*episodes))
    assert got.params_version.dtype == np.int32
    np.testing.assert_array_equal(got.params_version, np.full((T, 4), index + 40))


@pytest.mark.parametrize("task", ["Catch-v0", "CartPole-v1"])
def test_trajectories_are_what_envpool_gives_for_their_actions(task):
  env = EnvPool(task)
  agent = small.agent(metaopt=Fixed(), network=fakes.Recurrent())
  agent = Functions(agent, env.make((0,)).spec)
  params = actor_params(agent)
  actor = make_actor(agent, env, (1, 2), (4, 3))
  raw = env.make((1, 2, 4, 3))
  timestep = raw.reset()
  returns, lengths, expected, got = np.zeros(4), np.zeros(4, int), [], []
  for index in range(6):
    rollout = actor.unroll(params, 0, index, NEVER)
    got += rollout.episodes
    for t in range(T + 1):
      if t > 0:
        raw.send(rollout.trajectory.action[t - 1])
        timestep = raw.recv()
        ended = timestep.first
        expected += zip(returns[ended], lengths[ended], strict=True)
        returns = np.where(ended, 0, returns + timestep.reward)
        lengths = np.where(ended, 0, lengths + 1)
      there = jax.tree.map(lambda x, t=t: x[t], rollout.trajectory.timestep)
      jax.tree.map(np.testing.assert_array_equal, there, timestep)
  assert len(got) >= 4
  assert sorted(got) == sorted(expected)


def test_time_is_aligned_in_literal_numbers():
  agent = built()
  actor = make_actor(agent, COUNTING, (0, 1))
  x = actor.unroll(actor_params(agent), 0, 0, NEVER).trajectory
  # Seed 0 has two transitions an episode and terminates, seed 1 three and is truncated.
  np.testing.assert_array_equal(
    x.timestep.first.T, [[1, 0, 0, 1, 0, 0, 1, 0], [1, 0, 0, 0, 1, 0, 0, 0]]
  )
  np.testing.assert_array_equal(
    x.timestep.discount.T, [[1, 1, 0, 1, 1, 0, 1, 1], [1, 1, 1, 1, 1, 1, 1, 1]]
  )
  count = np.array([[0, 1, 2, 0, 1, 2, 0, 1], [0, 1, 2, 3, 0, 1, 2, 3]])
  np.testing.assert_array_equal(x.timestep.observation[..., 0].T, count)
  valid = ~x.timestep.first[1:]
  led_to = x.timestep.observation[1:, :, 2]  # the action that led to this observation
  np.testing.assert_array_equal(led_to[valid], x.action[valid])
  np.testing.assert_array_equal(x.timestep.reward[0], [0, 0])
  np.testing.assert_array_equal(
    x.timestep.reward[1:], np.where(valid, x.action + 10 * count.T[1:], 0)
  )
  assert set(x.action.ravel()) == {0, 1, 2}  # it does act at random


def test_the_next_trajectory_begins_where_the_last_one_ended():
  agent = built()
  actor = make_actor(agent, COUNTING, (2, 1), (3, 0))
  params = actor_params(agent)
  before = actor.unroll(params, 0, 0, NEVER).trajectory
  kept = jax.tree.map(np.array, before)
  after = actor.unroll(params, 0, 1, NEVER).trajectory
  jax.tree.map(
    lambda a, b: np.testing.assert_array_equal(a[-1], b[0]), before.timestep, after.timestep
  )
  # Steps of the episode before the new trajectory: that is what the recurrent core has counted.
  np.testing.assert_array_equal(before.core_state, [0, 0, 0, 0])
  np.testing.assert_array_equal(after.core_state, [1, 3, 2, 1])
  np.testing.assert_array_equal(after.timestep.observation[0, :, 0], [1, 3, 2, 1])
  jax.tree.map(np.testing.assert_array_equal, before, kept)  # its arrays were not used again


@pytest.mark.parametrize("overlap", [1, 4, 5, 6])  # a stride of 6, 3, 2 or 1; 6 and 1 divide T - 1
@pytest.mark.parametrize("pools", [((11, 12, 13, 14),), ((11, 12), (13, 14))])
def test_overlapping_trajectories_are_windows_of_one_stream(pools, overlap):
  agent = built()
  stride, windows = T - overlap, 6
  versions = [actor_params(agent, index) for index in range(windows)]  # other parameters each time
  actor = make_actor(agent, COUNTING, *pools, overlap=overlap)
  rollouts = [actor.unroll(versions[i], i, i, NEVER) for i in range(windows)]
  # The stream: what is new in every trajectory, one after the other.
  new = [0] + [overlap] * (windows - 1)
  parts = [r.trajectory for r in rollouts]
  stream = {
    "action": np.concatenate([x.action[s:] for x, s in zip(parts, new, strict=True)]),
    "behaviour": np.concatenate([x.behaviour[s:] for x, s in zip(parts, new, strict=True)]),
    "version": np.concatenate([np.full((T - s, 4), i) for i, s in enumerate(new)]),
  }
  # It is what the environments give for its actions, and what the agent says of their timesteps.
  envs = COUNTING.make(sum(pools, ()))
  timesteps, states = [envs.reset()], [agent.network.initial_state(4)]
  for t, action in enumerate(stream["action"]):
    envs.send(action)
    timesteps.append(envs.recv())
    step = jax.tree.map(lambda x: x[None], timesteps[t])
    params = versions[stream["version"][t, 0]]
    out, state = agent.network.unroll(params.params, step, states[t], params.gamma)
    close(stream["behaviour"][t], out.policy[0, 0])
    states.append(state)
  for i, rollout in enumerate(rollouts):
    x, at = rollout.trajectory, i * stride
    expected = jax.tree.map(lambda *x: np.stack(x), *timesteps[at : at + T + 1])
    jax.tree.map(np.testing.assert_array_equal, x.timestep, expected)
    for name in ("action", "behaviour"):
      np.testing.assert_array_equal(getattr(x, name), stream[name][at : at + T])
    np.testing.assert_array_equal(x.params_version, stream["version"][at : at + T])
    np.testing.assert_array_equal(x.core_state, states[at])
    assert rollout.env_steps == 4 * (T if i == 0 else stride)
  assert sum(r.env_steps for r in rollouts) == stream["action"].size
  finished = [length for r in rollouts for _, length in r.episodes]
  assert len(finished) == sum(x.first.sum() for x in timesteps[1:])  # none is counted twice


def test_behaviour_is_what_the_actions_were_drawn_from():
  agent = built()
  params = actor_params(agent)
  actor = make_actor(agent, COUNTING, (0, 1))
  for index in range(3):
    x = actor.unroll(params, 0, index, NEVER).trajectory
    # The whole trajectory again, from the recurrent state that it holds.
    close(x.behaviour, evaluate(agent, params, x)[0])
    _, key = jax.random.split(jax.random.fold_in(jax.random.fold_in(KEY, index), 0))
    for t in range(T):
      drawn = agent.distribution.sample(jax.random.fold_in(key, t), x.behaviour[t])
      np.testing.assert_array_equal(x.action[t], drawn)


def test_the_environments_got_the_actions_that_the_trajectory_holds():
  agent = built()
  pools = [COUNTING.make((0, 1)), COUNTING.make((2, 3))]
  actor = Actor(agent, pools, jax.devices()[0], KEY, T)
  params = actor_params(agent)
  actions = np.concatenate([actor.unroll(params, 0, i, NEVER).trajectory.action for i in range(2)])
  np.testing.assert_array_equal(actions[:, :2], pools[0].sent)
  np.testing.assert_array_equal(actions[:, 2:], pools[1].sent)


def test_new_parameters_act_at_once_and_the_recurrent_state_is_kept():
  agent = built()
  actor = make_actor(agent, COUNTING, (2, 1))
  actor.unroll(actor_params(agent, 0), 0, 0, NEVER)
  other = actor_params(agent, 1)
  x = actor.unroll(other, 1, 1, NEVER).trajectory
  close(x.behaviour, evaluate(agent, other, x)[0])
  np.testing.assert_array_equal(x.core_state, [1, 3])


def test_a_random_head_acts_for_a_whole_trajectory():
  agent = built(heads=3, behaviour="random")
  params = actor_params(agent)
  actor = make_actor(agent, COUNTING, tuple(range(8)))
  acting = []
  for index in range(3):
    x = actor.unroll(params, 0, index, NEVER).trajectory
    policies = evaluate(agent, params, x)
    same = np.isclose(policies, x.behaviour, rtol=1e-5, atol=1e-6).all(axis=(1, 3))
    np.testing.assert_array_equal(same.sum(axis=0), [1] * 8)  # one head an environment
    acting.append(same.argmax(axis=0))
  assert {h for heads in acting for h in heads} == {0, 1, 2}
  assert not np.array_equal(acting[0], acting[1])  # drawn anew for each trajectory


def test_episodes_close_in_order_with_raw_returns():
  agent = built()
  actor = make_actor(agent, COUNTING, (0, 4), (1, 5))
  rollouts = [actor.unroll(actor_params(agent), 0, i, NEVER) for i in range(2)]
  actions = np.concatenate([r.trajectory.action for r in rollouts])
  # Found at the reset step, of the first pool at t = 3, 6 | 9, 12 and of the second at 4 | 8, 12.
  lengths = [[length for _, length in r.episodes] for r in rollouts]
  assert lengths == [[2, 2, 3, 3, 2, 2], [3, 3, 2, 2, 2, 2, 3, 3]]
  returns = [episode_return for episode_return, _ in rollouts[0].episodes[:4]]
  assert returns[:2] == (actions[:2, :2].sum(axis=0) + 10 + 20).tolist()
  assert returns[2:] == (actions[:3, 2:].sum(axis=0) + 10 + 20 + 30).tolist()


def test_waiting_for_environments_is_measured():
  agent = built()
  actor = make_actor(agent, fakes.Counting(step_seconds=0.01), (0, 1))
  params = actor_params(agent)
  actor.unroll(params, 0, 0, NEVER)
  start = time.perf_counter()
  rollout = actor.unroll(params, 0, 1, NEVER)
  assert 0.01 * T <= rollout.env_wait
  assert 0 < rollout.act_time < time.perf_counter() - start - rollout.env_wait


def test_stops_in_the_middle_of_a_trajectory():
  agent = built()
  pool = COUNTING.make((0, 1))
  actor = Actor(agent, [pool], jax.devices()[0], KEY, T)
  with pytest.raises(Interrupted):
    actor.unroll(actor_params(agent), 0, 0, lambda: len(pool.sent) == 3)
  assert len(pool.sent) == 3
  actor.close()
  assert pool.closed


def test_every_pool_is_closed_when_one_fails_to(caplog):
  class Broken(fakes.CountingPool):
    def close(self):
      raise OSError("stuck")

  plugin = COUNTING
  pools = [Broken(plugin, np.array([0])), plugin.make((1,))]
  Actor(built(), pools, jax.devices()[0], KEY, T).close()
  assert pools[1].closed
  assert "could not be closed: OSError('stuck')" in caplog.text


class Careless:
  """A pool whose first row is integers, and whose later ones are lists and 64 bits."""

  spec, num_envs = fakes.SPEC, 2

  def make(self, seeds):
    self.time = 0
    return self

  def reset(self, stagger=False):
    return TimeStep(np.ones((2, 4), np.int64), np.zeros(2, int), np.ones(2, int), np.ones(2, int))

  def send(self, actions):
    self.time += 1

  def recv(self):
    return TimeStep(self.time + np.full((2, 4), 0.25), [1.5, -0.5], [0.5, 1.0], [False, True])


def test_the_first_row_does_not_decide_what_later_ones_can_hold():
  actor = make_actor(built(), Careless(), (0, 1))
  timestep = actor.unroll(actor_params(built()), 0, 0, NEVER).trajectory.timestep
  assert [x.dtype for x in timestep] == [np.float32] * 3 + [np.bool_]
  np.testing.assert_array_equal(timestep.reward, [[0, 0]] + [[1.5, -0.5]] * T)
  np.testing.assert_array_equal(timestep.discount, [[1, 1]] + [[0.5, 1]] * T)
  np.testing.assert_array_equal(timestep.first, [[True, True]] + [[False, True]] * T)
  np.testing.assert_array_equal(timestep.observation[:, 0, 0], [1, *np.arange(1, T + 1) + 0.25])


def test_real_observations_where_the_spec_says_integers_are_refused():
  pool = Careless().make(())
  pool.spec = pool.spec._replace(observation=specs.Array((4,), np.uint8))
  assert as_specified(pool.reset(), pool.spec).observation.dtype == np.uint8
  with pytest.raises(UserError, match="observations are float64, but its spec says uint8"):
    as_specified(pool.recv(), pool.spec)

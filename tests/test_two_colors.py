"""Two Colors against the same game played in NumPy, step for step."""

import jax
import numpy as np
import pytest

from selftune.core.engine.environments import functional
from selftune.plugins.envs.two_colors import TwoColors


class Mirror:
  """The game as its rules say it: a board of marks, and what lies on it."""

  def __init__(self, env, key, board):
    self.env, self.key, self.steps, self.due = env, key, 0, False
    self.agent, *self.objects = board

  def observation(self):
    found = []
    for place in (self.agent, *self.objects):
      for coordinate in place:
        found += [float(coordinate == i) for i in range(self.env.size)]
    return np.array(found, np.float32)

  def step(self, action):
    if self.due:
      self.due = False
      return self.observation(), 0.0, True
    step = {0: (-1, 0), 1: (1, 0), 2: (0, -1), 3: (0, 1)}[action]
    moved = tuple(a + b for a, b in zip(self.agent, step, strict=True))
    if all(0 <= x < self.env.size for x in moved):
      self.agent = moved
    worth = [1.0, -1.0] if self.steps // self.env.switch_every % 2 == 0 else [-1.0, 1.0]
    self.steps += 1
    reward = -0.04
    for i in range(2):
      if self.objects[i] == self.agent:
        reward = worth[i]
        taken = {self.agent, self.objects[1 - i]}
        free = [p for p in np.ndindex(self.env.size, self.env.size) if p not in taken]
        drawn = jax.random.randint(jax.random.fold_in(self.key, self.steps), (), 0, len(free))
        self.objects[i] = free[int(drawn)]
        break
    self.due = self.steps % self.env.counted == 0
    return self.observation(), reward, False


def greedy(observation, size, which):
  """The action that walks towards object `which`."""
  places = observation.reshape(3, 2, size).argmax(-1)
  row, column = places[1 + which] - places[0]
  return (0 if row < 0 else 1) if row else (2 if column < 0 else 3)


@pytest.mark.parametrize("size", [5, 2])
def test_it_is_the_game_that_numpy_plays(size):
  env = TwoColors(size, switch_every=70, counted=40)
  step = jax.jit(functional(env).step)
  key, rng = jax.random.key(3), np.random.default_rng(0)
  state, timestep = env.init(key)
  board = [divmod(int(cell), size) for cell in state.cells]
  assert len(set(board)) == 3 and bool(timestep.first) and timestep.discount == 1
  mirror = Mirror(env, key, board)
  np.testing.assert_array_equal(timestep.observation, mirror.observation())
  rewards, firsts = [], []
  for t in range(300):
    action = (
      rng.integers(4) if t % 3 == 0 else greedy(np.asarray(timestep.observation), size, t % 2)
    )
    state, timestep = step(state, np.int32(action))
    observation, reward, first = mirror.step(action)
    np.testing.assert_array_equal(timestep.observation, observation)
    assert (float(timestep.reward), bool(timestep.first)) == (np.float32(reward), first), t
    assert timestep.discount == 1  # it never ends
    rewards.append(reward)
    firsts.append(first)
  assert {1.0, -1.0, -0.04, 0.0} == set(rewards)
  assert [t for t, first in enumerate(firsts) if first] == [40, 81, 122, 163, 204, 245, 286]


def test_rewards_change_places_and_only_they_do():
  """An agent that walks to the first object gains, then loses as much, then gains again."""
  env = TwoColors(switch_every=200, counted=10_000)
  step = jax.jit(env.step)
  state, timestep = env.init(jax.random.key(0))
  rewards = []
  for _ in range(600):
    action = greedy(np.asarray(timestep.observation), 5, 0)
    state, timestep = step(state, np.int32(action))
    rewards.append(float(timestep.reward))
  of_each = [np.array(rewards[i : i + 200]) for i in (0, 200, 400)]
  worth = [(np.sum(x == 1), np.sum(x == -1)) for x in of_each]
  # The other may lie in the way, seldom.
  assert [gained > 3 * lost for gained, lost in worth] == [True, False, True]
  assert worth[1][1] > 3 * worth[1][0]
  assert 0.15 < of_each[0].mean() < 0.3


def test_new_places_are_uniform_over_free_cells():
  env = TwoColors(counted=10**6)
  step = jax.jit(jax.vmap(env.step))
  keys = jax.random.split(jax.random.key(1), 4000)
  state, _ = jax.vmap(env.init)(keys)
  # The agent at cell 6 walks right onto the first object; the second lies at 20.
  state = state._replace(cells=np.tile(np.int32([6, 7, 20]), (4000, 1)))
  state, timestep = step(state, np.full(4000, 3, np.int32))
  np.testing.assert_array_equal(timestep.reward, 1)
  agent, first, second = np.asarray(state.cells).T
  assert set(agent) == {7} and set(second) == {20}
  counts = np.bincount(first, minlength=25)
  assert counts[7] == counts[20] == 0
  free = np.delete(counts, [7, 20])
  assert np.sum((free - 4000 / 23) ** 2 / (4000 / 23)) < 48  # chi-squared of 22 degrees, 0.1 %


def test_a_grid_too_small_is_refused():
  with pytest.raises(ValueError, match="size = 1 must be at least 2"):
    TwoColors(1)

"""A corridor: the goal is at its right end."""

import dataclasses

import numpy as np
from dm_env import specs

from selftune import Array, Count, Environment, EnvSpec, TimeStep, register


@register("env", "corridor")
@dataclasses.dataclass(frozen=True)
class Corridor:
  """Action 1 goes right, 0 left; reward 1 at the goal, which ends the episode."""

  length: Count = 5
  max_steps: Count = 50

  def make(self, seeds: tuple[int, ...]) -> Environment:
    return CorridorPool(self, seeds)


class CorridorPool:
  """One corridor a seed, stepped together; starts are drawn from its seed."""

  def __init__(self, plugin: Corridor, seeds: tuple[int, ...]):
    self.spec = EnvSpec(specs.Array((plugin.length,), np.float32), specs.DiscreteArray(2))
    self._plugin, self.num_envs = plugin, len(seeds)
    self._generators = [np.random.default_rng(seed) for seed in seeds]

  def reset(self, stagger: bool = False) -> TimeStep:  # episodes differ in length: none to stagger
    self._place, self._steps = np.zeros((2, self.num_envs), int)
    self._ended = np.ones(self.num_envs, bool)
    self.send(self._place)
    return self.recv()

  def send(self, actions: Array) -> None:
    self._actions = np.asarray(actions)

  def recv(self) -> TimeStep:
    first, end = self._ended, self._plugin.length - 1  # after an end an episode begins: no action
    there = np.clip(self._place + np.where(self._actions == 1, 1, -1), 0, end)
    self._place = np.where(first, [g.integers(end) for g in self._generators], there)
    self._steps = np.where(first, 0, self._steps + 1)
    goal = ~first & (self._place == end)
    self._ended = goal | (self._steps >= self._plugin.max_steps)
    observation = np.eye(end + 1, dtype=np.float32)[self._place]
    return TimeStep(observation, goal * 1.0, 1.0 - goal, first)  # 1 where only the time ran out

  def close(self) -> None: ...

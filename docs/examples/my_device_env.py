"""The corridor again, in JAX: one environment, without a batch axis."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs

from selftune import Array, Count, Environment, EnvSpec, FunctionalPool, TimeStep, register


class State(NamedTuple):
  place: Array  # [] int32
  steps: Array  # [] int32, of the episode
  ended: Array  # [] bool: the next step begins an episode and ignores its action
  key: Array


@register("env", "device_corridor")
@dataclasses.dataclass(frozen=True)
class DeviceCorridor:
  """Action 1 goes right, 0 left; reward 1 at the goal, which ends the episode."""

  length: Count = 5
  max_steps: Count = 50

  @property
  def spec(self) -> EnvSpec:
    return EnvSpec(specs.Array((self.length,), np.float32), specs.DiscreteArray(2))

  def init(self, key: Array) -> tuple[State, TimeStep]:
    ended = State(jnp.int32(0), jnp.int32(0), jnp.asarray(True), key)
    return self.step(ended, jnp.int32(0))

  def step(self, state: State, action: Array) -> tuple[State, TimeStep]:
    first = state.ended
    key, start_key = jax.random.split(state.key)
    start = jax.random.randint(start_key, (), 0, self.length - 1)
    there = jnp.clip(state.place + jnp.where(action == 1, 1, -1), 0, self.length - 1)
    place = jnp.where(first, start, there)
    steps = jnp.where(first, 0, state.steps + 1)
    goal = ~first & (place == self.length - 1)
    new = State(place, steps, goal | (steps >= self.max_steps), key)
    # The discount is 1 where only the time ran out.
    return new, TimeStep(jax.nn.one_hot(place, self.length), goal * 1.0, 1.0 - goal, first)

  def make(self, seeds: tuple[int, ...]) -> Environment:
    return FunctionalPool(self, seeds)

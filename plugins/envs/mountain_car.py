"""Mountain car as a functional environment."""

import dataclasses
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs

from ...core.api import (
  Array,
  Count,
  Environment,
  EnvSpec,
  FunctionalPool,
  Native,
  TimeStep,
  register,
)

LEAST, GOAL, GREATEST, MAX_SPEED = -1.2, 0.5, 0.6, 0.07  # positions; change of one a step
Cut = Literal["terminal", "bootstrap"]


class State(NamedTuple):
  """The state of one car and its episode."""

  position: Array  # [] float32
  velocity: Array  # [] float32
  steps: Array  # [] int32, of the episode
  done: Array  # [] bool, the next step starts a new episode
  key: Array


@register("env", "mountain_car")
@dataclasses.dataclass(frozen=True)
class MountainCar:
  """Gym's mountain car: reward -1 a step until the goal, at most 200; pure JAX.

  Observations are position and velocity; the actions push left, not at all, and right. Without
  goal the episode is cut after `max_steps`: `cut` says whether that is `terminal` (discount 0, as
  in the Metatrace paper) or whether learning may `bootstrap` from there (a truncation).
  """

  cut: Cut = "terminal"
  max_steps: Count = 200

  @property
  def spec(self) -> EnvSpec:
    """Observations [2] float32, position and velocity, and an action of three."""
    return EnvSpec(specs.Array((2,), np.float32), specs.DiscreteArray(3))

  def init(self, key: Array) -> tuple[State, TimeStep]:
    """Starts the first episode: the state, and its FIRST timestep; the observation is [2]."""
    position, key = _start(key)
    zero = jnp.zeros((), jnp.int32)
    still = jnp.zeros((), jnp.float32)
    state = State(position, still, zero, zero > 0, key)
    return state, TimeStep(_observe(state), still, 1 + still, zero == 0)

  def step(self, state: State, action: Array) -> tuple[State, TimeStep]:
    """Makes a step with an action [] in {0, 1, 2}; after an end, starts an episode instead."""
    first = state.done
    position, velocity = move(state.position, state.velocity, action)
    # At most one pass. `vmap` takes both branches of a `cond` at every step, but it enters a loop
    # only while an environment needs it.
    carry: Any = (first, position, state.key)
    _, position, key = jax.lax.while_loop(
      lambda x: x[0], lambda x: (jnp.zeros_like(first), *_start(x[2])), carry
    )
    velocity = jnp.where(first, 0, velocity)
    steps = jnp.where(first, 0, state.steps + 1)
    goal = ~first & (position >= GOAL)
    cut = steps >= self.max_steps
    new = State(position, velocity, steps, goal | cut, key)
    # A cut ends the episode in any case; the discount says whether learning bootstraps.
    ended = goal | cut if self.cut == "terminal" else goal
    reward, discount = (x.astype(jnp.float32) for x in (jnp.where(first, 0, -1), ~ended))
    return new, TimeStep(_observe(new), reward, discount, first)

  def make(self, seeds: tuple[int, ...]) -> Environment:
    """Makes a pool on the host, for other runtimes than `@runs()`."""
    return FunctionalPool(self, seeds)

  def native(self) -> Native:
    """Returns the form in C++."""
    header = Path(__file__).with_name("_cars.h")
    return Native(header, "MountainCar", (self.cut == "terminal", self.max_steps))


def move(position: Array, velocity: Array, action: Array) -> tuple[Array, Array]:
  """Moves the car by Gym's dynamics (Moore 1990).

  Args:
    position: [...].
    velocity: [...], of position a step.
    action: [...] int: 0 pushes left, 1 does not, 2 pushes right.

  Returns:
    The next position and velocity, [...] each.
  """
  # 0.001 is the push of the engine, 0.0025 the pull of the hill, whose slope goes with cos(3 x).
  velocity += 0.001 * (action - 1).astype(velocity.dtype) - 0.0025 * jnp.cos(3 * position)
  velocity = jnp.clip(velocity, -MAX_SPEED, MAX_SPEED)
  position = jnp.clip(position + velocity, LEAST, GREATEST)
  # The wall on the left stops the car; on the right is the goal, which ends the episode before.
  return position, jnp.where((position == LEAST) & (velocity < 0), 0.0, velocity)


def _start(key: Array) -> tuple[Array, Array]:
  """Draws a first position, [], and the next key."""
  key, start = jax.random.split(key)
  return jax.random.uniform(start, (), jnp.float32, -0.6, -0.4), key


def _observe(state: State) -> Array:
  return jnp.stack([state.position, state.velocity])

"""Two Colors: a grid whose rewards change places again and again (Flennerhag et al. 2022)."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs

from ...core.api import Array, Count, Environment, EnvSpec, FunctionalPool, TimeStep, register

MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))  # rows and columns of up, down, left, right


class State(NamedTuple):
  """The board, how long the agent has been on it, and how it is drawn anew."""

  cells: Array  # [3] int32 of the agent, the first and the second object; row x size + column
  steps: Array  # [] int32, made so far, without those that start an episode
  first: Array  # [] bool, the next step starts an episode
  key: Array


@register("env", "two_colors")
@dataclasses.dataclass(frozen=True)
class TwoColors:
  """Two Colors of Flennerhag et al. (2022), Bootstrapped Meta-Learning: it never ends; pure JAX.

  An agent on a grid walks up, down, left and right. One object is worth 1 and the other -1, and
  they change places every `switch_every` steps, which nothing shows. Whichever the agent walks onto
  is put down on another free cell. A step that takes none costs 0.04. Observations are one-hot rows
  and columns of agent and objects, [6 size].

  Attributes:
    size: of a side of the grid.
    switch_every: steps after which the rewards change places.
    counted: steps whose reward is logged as the return of an episode. The board stays as it is from
      one to the next, and learning bootstraps over the cut.
  """

  size: Count = 5
  switch_every: Count = 100_000
  counted: Count = 1_000

  def __post_init__(self):
    if self.size < 2:
      raise ValueError(f"size = {self.size} must be at least 2: three things lie on the grid.")

  @property
  def spec(self) -> EnvSpec:
    """Observations [6 size] float32, and an action of four."""
    return EnvSpec(specs.Array((6 * self.size,), np.float32), specs.DiscreteArray(len(MOVES)))

  def init(self, key: Array) -> tuple[State, TimeStep]:
    """Puts down agent and objects: the state, and its FIRST timestep; the observation is [6 size].

    What step n draws it draws with the key fold_in(key, n), from n = 1 on; this with n = 0.
    """
    start = jax.random.fold_in(key, 0)
    cells = jax.random.choice(start, self.size**2, (3,), replace=False).astype(jnp.int32)
    zero, one = jnp.zeros((), jnp.int32), jnp.ones((), jnp.float32)
    return State(cells, zero, zero > 0, key), TimeStep(self._observe(cells), 0 * one, one, one > 0)

  def step(self, state: State, action: Array) -> tuple[State, TimeStep]:
    """Makes a step with an action [] in {0, 1, 2, 3}; after `counted` of them, counts anew."""
    first = state.first
    steps = state.steps + ~first
    agent = self._moved(state.cells[0], action)
    # [2]: which object, if any, the agent has walked onto.
    taken = agent == state.cells[1:]
    draw = jax.random.fold_in(state.key, steps)
    free = jax.random.randint(draw, (), 0, self.size**2 - 2)
    # At most one object is taken: two never lie on one cell.
    objects = jnp.where(taken, _free_cell(free, agent, state.cells[:0:-1]), state.cells[1:])
    cells = jnp.where(first, state.cells, jnp.concatenate([agent[None], objects]))
    switched = state.steps // self.switch_every % 2 > 0
    worth = jnp.where(switched, jnp.array([-1.0, 1.0]), jnp.array([1.0, -1.0]))
    reward = jnp.where(jnp.any(taken), jnp.sum(worth * taken), -0.04).astype(jnp.float32)
    new = State(cells, steps, ~first & (steps % self.counted == 0), state.key)
    one = jnp.ones((), jnp.float32)
    return new, TimeStep(self._observe(cells), jnp.where(first, 0, reward), one, first)

  def make(self, seeds: tuple[int, ...]) -> Environment:
    """Makes a pool on the host, for other runtimes than `@runs()`."""
    return FunctionalPool(self, seeds)

  def _moved(self, cell: Array, action: Array) -> Array:
    """Returns the cell [] that an action leads to; a wall holds the agent where it is."""
    place = jnp.stack(jnp.divmod(cell, self.size)) + jnp.array(MOVES, jnp.int32)[action]
    row, column = jnp.clip(place, 0, self.size - 1)
    return row * self.size + column

  def _observe(self, cells: Array) -> Array:
    """Returns one-hot rows and columns of cells [3]: [6 size] float32."""
    places = jnp.stack(jnp.divmod(cells, self.size), 1)
    return jax.nn.one_hot(places, self.size, dtype=jnp.float32).reshape(-1)


def _free_cell(number: Array, agent: Array, others: Array) -> Array:
  """Returns the free cell [2] of a number [], where the agent is on one and `others` [2] are."""
  low, high = jnp.minimum(agent, others), jnp.maximum(agent, others)
  # `number` counts free cells alone: it skips the lower one that is taken, then the higher one.
  cell = number + (number >= low)
  return cell + (cell >= high)

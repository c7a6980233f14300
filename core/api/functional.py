"""A pool on the host of a functional environment, so that every runtime takes it."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .contracts import FunctionalEnvironment
from .errors import UserError
from .types import Array, PyTree, TimeStep


class FunctionalPool:
  """A pool of one environment a seed, stepped by one compiled call; see `Environment`.

  A `FunctionalEnvironment` whose `make` returns it is an `EnvPlugin`, too; with a `draw`, of its
  `make_drawn`, a `DrawablePlugin`.
  """

  def __init__(
    self,
    env: FunctionalEnvironment,
    seeds: tuple[int, ...],
    draw: Callable[[PyTree], Array] | None = None,
  ):
    """Makes the pool.

    Args:
      env: of all its environments.
      seeds: of each.
      draw: the state of one environment -> its picture, uint8 [height, width, 3].
    """
    self.spec, self.num_envs = env.spec, len(seeds)
    self._env, self._seeds, self._draw = env, seeds, draw
    self._pending: Any = None

  def reset(self, stagger: bool = False) -> TimeStep:
    """Starts an episode in every environment; timesteps [B, ...]. Staggering is not offered."""
    del stagger
    keys = jax.vmap(jax.random.key)(jnp.asarray(self._seeds, jnp.uint32))
    self._state, timestep = jax.jit(jax.vmap(self._env.init))(keys)
    return jax.tree.map(np.asarray, timestep)

  def send(self, actions: Array) -> None:
    """Starts a step with actions [B, ...]: JAX runs it while the caller goes on."""
    self._state, self._pending = _mapped(self._env.step, self._state, np.asarray(actions))

  def recv(self) -> TimeStep:
    """Waits for the step; its timesteps, [B, ...], on the host."""
    return jax.tree.map(np.asarray, self._pending)

  def draw(self) -> Array:
    """Returns the picture of environment 0, uint8 [height, width, 3]."""
    if self._draw is None:
      raise UserError("this pool was made without pictures.")
    return self._draw(jax.tree.map(lambda x: x[0], self._state))

  def close(self) -> None:
    """Frees the arrays."""
    self._state = self._pending = None


@functools.partial(jax.jit, static_argnums=0)  # one function: pools of one plugin compile once
def _mapped(step, state, actions):
  return jax.vmap(step)(state, actions)

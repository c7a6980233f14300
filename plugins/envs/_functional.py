"""A functional environment as a pool on the host, so that every runtime takes it."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...core.api import Array, FunctionalEnvironment, TimeStep


class Pool:
  """One environment a seed, stepped by one compiled call; see `core.api.contracts.Environment`."""

  def __init__(self, env: FunctionalEnvironment, seeds: tuple[int, ...]):
    self.spec, self.num_envs = env.spec, len(seeds)
    self._env, self._seeds = env, seeds
    self._pending: Any = None

  def reset(self, stagger: bool = False) -> TimeStep:
    del stagger
    keys = jax.vmap(jax.random.key)(jnp.asarray(self._seeds, jnp.uint32))
    self._state, timestep = jax.jit(jax.vmap(self._env.init))(keys)
    return jax.tree.map(np.asarray, timestep)

  def send(self, actions: Array) -> None:
    self._state, self._pending = _step(self._env, self._state, np.asarray(actions))

  def recv(self) -> TimeStep:
    return jax.tree.map(np.asarray, self._pending)

  def close(self) -> None:
    self._state = self._pending = None


@functools.partial(jax.jit, static_argnums=0)  # one function: pools of one plugin compile once
def _step(env, state, actions):
  return jax.vmap(env.step)(state, actions)

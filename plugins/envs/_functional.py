"""A pool on the host of a functional environment, so that every runtime takes it."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...core.api import Array, FunctionalEnvironment, TimeStep


class Pool:
  """A pool of one environment a seed, stepped by one compiled call; see `api.Environment`."""

  def __init__(self, env: FunctionalEnvironment, seeds: tuple[int, ...]):
    self.spec, self.num_envs = env.spec, len(seeds)
    self._env, self._seeds = env, seeds
    self._pending: Any = None

  def reset(self, stagger: bool = False) -> TimeStep:
    """Starts an episode in every environment; timesteps [B, ...]. Staggering is not offered."""
    del stagger
    keys = jax.vmap(jax.random.key)(jnp.asarray(self._seeds, jnp.uint32))
    self._state, timestep = jax.jit(jax.vmap(self._env.init))(keys)
    return jax.tree.map(np.asarray, timestep)

  def send(self, actions: Array) -> None:
    """Starts a step with actions [B, ...]: JAX runs it while the caller goes on."""
    self._state, self._pending = _step(self._env, self._state, np.asarray(actions))

  def recv(self) -> TimeStep:
    """Waits for the step; its timesteps, [B, ...], on the host."""
    return jax.tree.map(np.asarray, self._pending)

  def close(self) -> None:
    """Frees the arrays."""
    self._state = self._pending = None


@functools.partial(jax.jit, static_argnums=0)  # one function: pools of one plugin compile once
def _step(env, state, actions):
  return jax.vmap(env.step)(state, actions)

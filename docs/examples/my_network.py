"""One hidden layer, written out; the packaged networks are Haiku's."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from selftune import Array, Count, EnvSpec, HeadOut, Network, PyTree, TimeStep, register


@register("network", "one_layer")
@dataclasses.dataclass(frozen=True)
class OneLayer:
  """tanh units on the flattened observation, and linear heads; no memory."""

  units: Count = 32

  def build(self, spec: EnvSpec, policy_size: int, heads: int) -> Network:
    size = math.prod(spec.observation.shape)

    def init(key: Array) -> PyTree:
      torso, policy = jax.random.split(key)
      return {
        "torso": jax.random.normal(torso, (size, self.units)) / math.sqrt(size),
        "policy": 0.01 * jax.random.normal(policy, (heads, self.units, policy_size)),
        "value": jnp.zeros((heads, self.units)),
      }

    def unroll(
      params: PyTree, timestep: TimeStep, core_state: PyTree, gamma: Array
    ) -> tuple[HeadOut, PyTree]:
      t, b = timestep.first.shape
      x = jnp.tanh(timestep.observation.reshape(t, b, size) @ params["torso"])
      p = len(gamma)  # heads that are wanted: the first p
      policy = jnp.einsum("tbu,pua->ptba", x, params["policy"][:p])
      return HeadOut(policy, jnp.einsum("tbu,pu->ptb", x, params["value"][:p])), core_state

    return Network(init, lambda batch_size: (), unroll)

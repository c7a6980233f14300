"""Networks whose value and policy are linear in given features."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ...core.api import Array, HeadOut, Network, PyTree, TimeStep


def linear_network(
  features: Callable[[Array, jnp.dtype], Array],
  size: int,
  policy_size: int,
  heads: int,
) -> Network:
  """Builds a network linear in the features, all weights 0 at first, without bias.

  The parameters are `value` [P, size] and `policy` [P, A, size].

  Args:
    features: (observations [T, B, ...], dtype) -> [T, B, size].
    size: number of features.
    policy_size: A.
    heads: P.
  """

  def init(key: Array) -> PyTree:
    del key
    # Zeros, as in the Metatrace paper: no value at first, and the uniform policy.
    shapes = {"value": (heads, size), "policy": (heads, policy_size, size)}
    return {name: jnp.zeros(shape, jnp.float32) for name, shape in shapes.items()}

  def unroll(
    params: PyTree, timestep: TimeStep, core_state: PyTree, gamma: Array
  ) -> tuple[HeadOut, PyTree]:
    value, policy = (params[name][: len(gamma)] for name in ("value", "policy"))
    x = features(timestep.observation, value.dtype)
    exact = jax.lax.Precision.HIGHEST  # TF32 would differ from sums over active features
    # t, b: time and batch; f: features; p: heads; a: parameters of the distribution.
    return HeadOut(
      policy=jnp.einsum("tbf,paf->ptba", x, policy, precision=exact),
      value=jnp.einsum("tbf,pf->ptb", x, value, precision=exact),
    ), core_state

  return Network(init, lambda batch: (), unroll)

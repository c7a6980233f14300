"""The convolutional network of the Metatrace paper."""

import dataclasses

import haiku as hk
import jax
import jax.numpy as jnp

from ...core.api import Array, EnvSpec, HeadOut, Network, PyTree, TimeStep, register
from ._compose import as_input, check_image
from ._layers import conv2d


def dsilu(x: jax.Array) -> jax.Array:
  """Applies dSiLU (Elfwing et al. 2018): s(x) (1 + x (1 - s(x))), SiLU's derivative; [...]."""
  s = jax.nn.sigmoid(x)
  return s * (1 + x * (1 - s))


@register("network", "silu_cnn")
@dataclasses.dataclass(frozen=True)
class SiluCnn:
  """Two SiLU convolutions, a dSiLU layer of 256, linear heads (Metatrace, section 5.3).

  Convolutions 8 x 8 / 4 with 16 channels and 4 x 4 / 2 with 32. The paper does not tell how the
  weights start; here as Haiku's, with the heads at 0: no value, and the uniform policy.
  """

  def build(self, spec: EnvSpec, policy_size: int, heads: int) -> Network:
    """Builds the network for images [H, W, C]."""
    check_image(spec, "silu_cnn", smallest=20)  # 20 leaves one pixel after the second

    def forward(x: jax.Array) -> jax.Array:
      for i, (channels, size, stride) in enumerate(((16, 8, 4), (32, 4, 2))):
        x = jax.nn.silu(conv2d(x, f"conv_{i}", channels, size, stride, padding="VALID"))
      x = dsilu(hk.Linear(256)(x.reshape(x.shape[0], -1)))
      # Value and policy of every head in one product; they share all below it.
      out = hk.Linear(heads * (1 + policy_size), w_init=jnp.zeros, name="heads")(x)
      return out.reshape(-1, heads, 1 + policy_size)

    transformed = hk.without_apply_rng(hk.transform(forward))

    def init(key: Array) -> PyTree:
      return transformed.init(key, jnp.zeros((1, *spec.observation.shape), jnp.float32))

    def unroll(
      params: PyTree, timestep: TimeStep, core_state: PyTree, gamma: Array
    ) -> tuple[HeadOut, PyTree]:
      time_batch = timestep.first.shape
      observation = timestep.observation.reshape(-1, *spec.observation.shape)
      x = as_input(observation, jax.tree.leaves(params)[0].dtype)
      # [N, heads, 1 + A] -> [heads, N, 1 + A]; the first number of a head is its value.
      out = jnp.moveaxis(transformed.apply(params, x), 1, 0)[: len(gamma)]
      out = out.reshape(len(gamma), *time_batch, 1 + policy_size)
      return HeadOut(policy=out[..., 1:], value=out[..., 0]), core_state

    return Network(init, lambda batch: (), unroll)

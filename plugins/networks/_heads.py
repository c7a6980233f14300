"""Policy and value heads, and the embedding of each head's discount, for every network."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
from jax import Array

from ...core.api import HeadOut

GammaEmbedding = Literal["none", "shared", "per_head"]
Init = Callable[[float], hk.initializers.Initializer]
EMBEDDING = 16  # numbers that stand for a discount, as in Xu et al. (2018)


class Style(NamedTuple):
  """What heads are made of; the defaults are STAC's, of its Table 2."""

  hidden: int | None = 256  # units of the hidden layer; None for none
  activation: Callable[[Array], Array] = jax.nn.relu
  init: Init = hk.initializers.VarianceScaling  # scale of a layer's outputs -> its initialiser
  gain: float = 1.0  # that scale, of the hidden layer


TABLE_2 = Style()


def heads(
  x: Array,
  value_x: Array,
  gamma: Array,
  *,
  total: int,
  policy_size: int,
  gamma_embedding: GammaEmbedding,
  style: Style,
) -> HeadOut:
  """Evaluates the first `len(gamma)` of `total` heads (STAC, Table 2), in a Haiku transform.

    h_p = relu(W_p [x, E_p gamma_p] + b_p),   policy_p or value_p = U_p h_p + c_p

  Each head has its own W, U, b, c for its policy and for its value, with one hidden layer of 256,
  or as `style` says. They are stacked along a leading axis and evaluated together. E is a linear
  embedding of size 16 (Xu et al. 2018), shared or one a head. Only W x is computed in the dtype of
  `x`, the small rest in float32: bfloat16 cannot tell discounts of 0.991 and 0.992 apart.

  Haiku's default initialisers, except for U of the policy: variance scale 0.01, so that every
  head starts close to the uniform policy.

  Args:
    x: [N, D] output of the torso or core, for the policy.
    value_x: [N, D] the same for the value, `x` itself but where their torsos are separate.
    gamma: [P] discounts of the heads to evaluate.
    total: how many heads the parameters hold.
    policy_size: A, the number of distribution parameters.
    gamma_embedding: 'none', or whether E is 'shared' or one 'per_head'.
    style: layers and initialisers.

  Returns:
    policy [P, N, policy_size] and value [P, N], in the parameters' dtype, float32.

  Raises:
    ValueError: `gamma` is longer than `total`.
  """
  count = gamma.shape[0]
  if count > total:
    raise ValueError(f"gamma holds {count} discounts, but the network was built with {total} heads")

  def parameter(name: str, shape: tuple[int, ...], init: hk.initializers.Initializer) -> Array:
    # One draw a head: an initialiser that saw the leading axis would take it for a fan-in.
    def independent(shape, dtype):
      return jnp.stack([init(shape[1:], dtype) for _ in range(shape[0])])

    # Always of all heads, whichever are evaluated: parameters have one shape.
    return hk.get_parameter(name, (total, *shape), jnp.float32, independent)[:count]

  def linear(x: Array, name: str, out: int, scale: float = 1.0) -> Array:
    w = parameter(f"{name}_w", (x.shape[-1], out), style.init(scale))
    b = parameter(f"{name}_b", (out,), jnp.zeros)
    return jnp.matmul(x, w.astype(x.dtype)).astype(b.dtype) + b[:, None, :]

  # Batched matrices: an einsum over one shared x transposes W, twice as slow at three heads on CPU.
  x, value_x = (jnp.broadcast_to(x, (count, *x.shape)) for x in (x, value_x))

  def embedded(name: str, hidden: int) -> Array | float:
    if gamma_embedding == "none":
      return 0.0
    # `embedding` is [1, EMBEDDING] where shared, else a row a head: linear in gamma, without bias.
    e = gamma[:, None] * embedding  # [P, EMBEDDING]
    w = parameter(f"{name}_gamma_w", (EMBEDDING, hidden), hk.initializers.VarianceScaling())
    return jnp.einsum("pe,peh->ph", e, w)[:, None, :]  # the same for all N

  def mlp(x: Array, name: str, out: int, scale: float) -> Array:
    if style.hidden is not None:
      hidden = linear(x, f"{name}_hidden", style.hidden, style.gain) + embedded(name, style.hidden)
      x = style.activation(hidden)
    return linear(x, f"{name}_output", out, scale)

  init = hk.initializers.VarianceScaling()
  match gamma_embedding:
    case "shared":
      embedding = hk.get_parameter("gamma_embedding", (1, EMBEDDING), jnp.float32, init)
    case "per_head":
      embedding = parameter("gamma_embedding", (1, EMBEDDING), init)[:, 0]
  return HeadOut(
    policy=mlp(x, "policy", policy_size, 0.01),
    value=mlp(value_x, "value", 1, 1.0)[..., 0],
  )

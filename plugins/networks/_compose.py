"""Composition of a network from a torso, a recurrent core if there is one, and heads."""

from collections.abc import Callable
from typing import Any, Literal

import haiku as hk
import jax
import jax.numpy as jnp

from ...core.api import Array, EnvSpec, HeadOut, Network, PyTree, TimeStep
from ._heads import TABLE_2, GammaEmbedding, Style, heads

ComputeDtype = Literal["float32", "bfloat16"]


def compose(
  torso: Callable[[jax.Array], jax.Array],
  spec: EnvSpec,
  policy_size: int,
  total_heads: int,
  lstm: int | None,
  gamma_embedding: GammaEmbedding,
  compute_dtype: ComputeDtype,
  style: Style = TABLE_2,
  separate: bool = False,
) -> Network:
  """Builds a network whose parameters are `{'torso': ..., 'lstm': ..., 'heads': ...}`.

  Time and batch are flattened to one axis before the torso: a convolution mapped over time is many
  times slower on CPU. The core alone runs over time; FIRST clears its state.

  Args:
    torso: [N, *observation] -> [N, D]; builds Haiku modules; sees bytes divided by 255.
    spec: of one environment.
    policy_size: A, the number of distribution parameters of the policy.
    total_heads: how many heads the parameters hold; fewer may be evaluated.
    lstm: units of an LSTM between torso and heads; None for none, and a core state of ().
    gamma_embedding: whether heads see their discounts, see `_heads.heads`.
    compute_dtype: of torso and core; the parameters stay float32.
    style: of the heads.
    separate: values have a torso of their own, whose parameters are 'value_torso'.

  Raises:
    ValueError: these do not go together.
  """
  if separate and lstm is not None:
    raise ValueError("separate torsos have no LSTM: write lstm = None, or torsos = 'shared'")
  if style.hidden is None and gamma_embedding != "none":
    raise ValueError(
      "discounts are embedded in the heads' hidden layer: give head_hidden a number, or write "
      "gamma_embedding = 'none'"
    )
  torso_fn = hk.without_apply_rng(hk.transform(torso))
  lstm_fn = None if lstm is None else _lstm(lstm)

  @hk.without_apply_rng
  @hk.transform
  def heads_fn(x: jax.Array, value_x: jax.Array, gamma: jax.Array) -> HeadOut:
    return heads(
      x,
      value_x,
      gamma,
      total=total_heads,
      policy_size=policy_size,
      gamma_embedding=gamma_embedding,
      style=style,
    )

  def initial_state(batch: int) -> PyTree:
    return () if lstm is None else hk.LSTMState(jnp.zeros((batch, lstm)), jnp.zeros((batch, lstm)))

  def init(key: Array) -> PyTree:
    torso_key, heads_key = jax.random.split(key)
    x = jnp.zeros((1, *spec.observation.shape), jnp.float32)
    params = {"torso": torso_fn.init(torso_key, x)}
    if separate:
      params["value_torso"] = torso_fn.init(jax.random.fold_in(torso_key, 2), x)
    # Shapes alone: running a residual network on zeros would compile it once more.
    features = jax.eval_shape(torso_fn.apply, params["torso"], x)
    x = jnp.zeros(features.shape, features.dtype)
    if lstm_fn is not None:
      lstm_key = jax.random.fold_in(torso_key, 1)  # not split: torso and heads start as without it
      params["lstm"] = lstm_fn.init(lstm_key, x[None], jnp.zeros((1, 1), bool), initial_state(1))
      x = jnp.zeros((1, lstm))
    return params | {"heads": heads_fn.init(heads_key, x, x, jnp.zeros(total_heads))}

  def unroll(
    params: PyTree, timestep: TimeStep, core_state: PyTree, gamma: Array
  ) -> tuple[HeadOut, PyTree]:
    dtype = working_dtype(params, compute_dtype)
    cast = lambda tree: jax.tree.map(lambda x: x.astype(dtype), tree)
    time_batch = timestep.first.shape
    # [T, B, ...] -> [T B, ...]; the core, and heads at the end, get both axes back.
    x = as_input(timestep.observation.reshape(-1, *timestep.observation.shape[2:]), dtype)
    value_x = torso_fn.apply(cast(params["value_torso"]), x) if separate else None
    x = torso_fn.apply(cast(params["torso"]), x)
    if lstm_fn is not None:
      x, state = lstm_fn.apply(
        cast(params["lstm"]), x.reshape(*time_batch, -1), timestep.first, cast(core_state)
      )
      x = x.reshape(-1, x.shape[-1])
      # The state that is carried on keeps its dtype, else the next unroll is another program.
      core_state = jax.tree.map(lambda new, old: new.astype(old.dtype), state, core_state)
    value_x = x if value_x is None else value_x
    out = heads_fn.apply(params["heads"], x, value_x, gamma)  # casts its own: some is never rounded
    out = jax.tree.map(lambda y: y.reshape(y.shape[0], *time_batch, *y.shape[2:]), out)
    return out, core_state

  def heads_alone(params: PyTree) -> PyTree:
    # Of the two dicts the right one counts: the heads keep their gradient, all else is a constant.
    return jax.lax.stop_gradient(params) | {"heads": params["heads"]}

  return Network(init, initial_state, unroll, heads_alone)


def _lstm(units: int) -> hk.Transformed:
  """Makes an LSTM over time: (x [T, B, D], first [T, B], state) -> [T, B, units], state.

  FIRST clears the state before the step, so nothing of one episode reaches the next.
  """

  def unroll(x: jax.Array, first: jax.Array, state: hk.LSTMState) -> Any:
    return hk.dynamic_unroll(hk.ResetCore(hk.LSTM(units)), (x, first), state)

  return hk.without_apply_rng(hk.transform(unroll))


def working_dtype(params: PyTree, compute_dtype: ComputeDtype) -> jnp.dtype:
  """Returns what a network computes in: 'float32' is the parameters' own dtype, whatever it is.

  Args:
    params: a tree of arrays of one dtype, [...] each.
    compute_dtype: as configured.
  """
  # Under 64 bits, as in tests of gradients, 'float32' must not round.
  own = jax.tree.leaves(params)[0].dtype
  return own if compute_dtype == "float32" else jnp.dtype(compute_dtype)


def as_input(observation: Array, dtype: jnp.dtype) -> jax.Array:
  """Returns observations [...] as floats; bytes, which only images have, are scaled to [0, 1]."""
  x = jnp.asarray(observation).astype(dtype)
  return x / 255 if observation.dtype == jnp.uint8 else x


def check_image(spec: EnvSpec, network: str, smallest: int) -> None:
  """Raises ValueError unless observations are images of at least that many rows and columns."""
  shape = spec.observation.shape
  if len(shape) != 3:
    raise ValueError(
      f"network '{network}' takes images [height, width, channels], but observations have shape "
      f"{shape}; write agent.network = @mlp(), which takes any shape"
    )
  if min(shape[:2]) < smallest:
    raise ValueError(
      f"network '{network}' takes images of {smallest} x {smallest} and more, channels last, but "
      f"observations have shape {shape}; write agent.network = @mlp(), which takes any shape"
    )

"""Metaparameters that follow from what was seen lately (Flennerhag et al., Luketina et al. 2022).

    eta = eta_0 + W_2 tanh(W_1 x + b_1)

x are statistics of the last batches, eta_0 is free as it is without a context, and W_2 starts at 0.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from ...core.api import AgentFns, Array, Count, PyTree, Trajectory, configurable
from ._chain import Etas

Statistic = Literal["reward", "td_error", "value"]


@configurable("context")
@dataclasses.dataclass(frozen=True)
class Context:
  """A small network from recent statistics to the metaparameters.

  Attributes:
    statistics: means over a batch of the raw reward, of the one-step TD error, and of the value.
    batches: of how many of the last batches the network sees the statistics.
    hidden: units of its one layer.
  """

  statistics: tuple[Statistic, ...] = ("reward",)
  batches: Count = 10
  hidden: Count = 32

  def __post_init__(self):
    if not self.statistics:
      raise ValueError("statistics = () leaves nothing to follow: write one or more, ('reward',)")

  @property
  def size(self) -> int:
    """The number of statistics that the network sees, S."""
    return self.batches * len(self.statistics)

  def init(self, key: Array, shapes: Mapping[str, tuple[int, ...]]) -> PyTree:
    """Draws the weights; at first the network adds nothing to the metaparameters.

    Args:
      key: draws them.
      shapes: of the metaparameters by name, (P,) or (1,): N numbers in all.

    Returns:
      W_1 [S, hidden], b_1 [hidden] and W_2 [hidden, N].
    """
    out = sum(map(math.prod, shapes.values()))
    scale = 1 / math.sqrt(self.size)
    # W_1 is not 0, or no gradient would ever reach either matrix.
    return {
      "w1": scale * jax.random.normal(key, (self.size, self.hidden)),
      "b1": jnp.zeros(self.hidden),
      "w2": jnp.zeros((self.hidden, out)),
    }

  def applied(self, weights: PyTree, recent: Array, etas: Etas) -> Etas:
    """Returns eta by name, [P] or [1].

    Args:
      weights: of the network.
      recent: statistics [S].
      etas: eta_0, by name, [P] or [1].
    """
    hidden = jnp.tanh(recent @ weights["w1"] + weights["b1"])
    # All N outputs lie in one row; each name takes the next `size` of them.
    offsets, start = hidden @ weights["w2"], 0
    moved = {}
    for name, eta in etas.items():
      moved[name] = eta + offsets[start : start + eta.size].reshape(eta.shape)
      start += eta.size
    return moved

  def seen(
    self, fns: AgentFns, params: PyTree, gamma: Array, recent: Array, batch: Trajectory
  ) -> Array:
    """Returns the statistics [S] with those of a batch [T+1, B] in place of the oldest ones.

    Args:
      fns: the agent.
      params: of the network, before it learns from the batch.
      gamma: each head's discount, [P + E + C].
      recent: the statistics so far, [S], newest first.
      batch: [T+1, B].
    """

    def one(trajectory):
      out = fns.outer_heads(params, gamma, trajectory)
      step_t = trajectory.timestep
      value = jnp.mean(out.value, 0)  # over the Po heads, [T+1, B]
      # m_{t+1}: a transition into FIRST is the auto-reset's and is not counted.
      mask = 1 - step_t.first[1:].astype(value.dtype)
      after = gamma[0] * step_t.discount[1:] * value[1:]
      of = {
        "reward": step_t.reward[1:],
        "td_error": step_t.reward[1:] + after - value[:-1],
        "value": value[:-1],
      }
      # Sums, which are exact over micro-batches and devices; means of means are not.
      of_each = jnp.stack([jnp.sum(of[name] * mask) for name in self.statistics])
      return (of_each, jnp.sum(mask)), (), ()

    (totals, count), _, _ = fns.accumulate(one, batch)
    now = totals / jnp.maximum(count, 1)
    # Symmetric logarithms: tasks differ in the size of their rewards by orders of magnitude.
    now = jnp.sign(now) * jnp.log1p(jnp.abs(now))
    return jnp.concatenate([now.astype(recent.dtype), recent[: -len(self.statistics)]])


class Contextual(NamedTuple):
  """The part of a meta state that a context adds."""

  weights: PyTree
  recent: Array  # [S]

"""Behaviours: which head acts, and which the outer loss is about (STAC paper, section 9.3).

- `first`: head 1 acts and the outer loss is head 1's (STACX).
- `random`: a head drawn for each environment and trajectory acts; the outer loss averages all.
- `average`: the average of the heads' logits acts; one more head, whose own policy is unused,
  learns the value of that policy, and the outer loss is about that pair.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..api.types import Array, HeadOut
from ..experiment import BehaviourName


class Behaviour(NamedTuple):
  """A way to act with P heads."""

  extra_heads: int  # heads of the network beyond the P that are tuned
  acting_heads: int  # the actor evaluates the first so many heads
  outer_heads: slice  # of P + extra_heads, those the outer loss averages over
  mixed: Callable[[HeadOut], HeadOut]  # [P + extra, ...] -> the same, with the extra head's policy
  choose: Callable[[Array, Array], Array]  # (trajectory's key, policies [Pa, B, A]) -> [B, A]


def behaviour(name: BehaviourName, heads: int) -> Behaviour:
  """Returns the behaviour called `name` for `heads` tuned heads, P."""

  def random_head(key, policies):
    # [1:2]: one draw an environment. The key is the trajectory's, so a head acts all through it.
    acting = jax.random.randint(key, policies.shape[1:2], 0, heads)
    return policies[acting, jnp.arange(policies.shape[1])]

  def with_average(out):
    # Logits, not probabilities: the mixture stays in the family, so KLs and IS ratios are exact.
    average = jnp.mean(out.policy[:heads], axis=0, keepdims=True)
    after = out.policy[heads + 1 :]  # of critics
    return out._replace(policy=jnp.concatenate([out.policy[:heads], average, after]))

  return {
    # In order: extra heads, acting heads, heads of the outer loss; how heads are mixed; who acts.
    "first": Behaviour(0, 1, slice(0, 1), lambda out: out, lambda key, policies: policies[0]),
    "random": Behaviour(0, heads, slice(0, heads), lambda out: out, random_head),
    "average": Behaviour(
      1,
      heads,
      slice(heads, heads + 1),
      with_average,
      lambda key, policies: jnp.mean(policies, axis=0),
    ),
  }[name]

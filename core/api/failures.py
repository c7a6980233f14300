"""Updates that were not finite: which number was the first, and what may have made it so."""

import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from .checks import who
from .types import Array, Metrics, TimeStep

INPUTS = ("observation", "reward", "discount")  # of a TimeStep, what may be not finite
# Metrics of these names are above 0 where the network or the corrector gave what is not finite.
# They are asked when a loss is not, and none of them is logged.
NOT_FINITE = ("not_finite/network", "not_finite/corrector")
# How names of metrics begin, in the order in which they are checked; others come last. See
# `contracts.MetaOptimizer.step`.
CHECK_ORDER = ("loss/", "grad_norm", "outer_loss/", "metagrad")


def check_order(names: Sequence[str]) -> list[str]:
  """Sorts names of metrics as they are checked: causes before what they poison."""

  def rank(name):
    ranks = [i for i, prefix in enumerate(CHECK_ORDER) if name.startswith(prefix)]
    # A total is the sum of the terms, so the term that spoilt it is named in its place.
    total = name.startswith(("loss/total", "outer_loss/total"))
    return (ranks[0] if ranks else len(CHECK_ORDER), total, name)

  return sorted(names, key=rank)


def not_finite(timestep: TimeStep) -> Array:
  """Says which of `INPUTS` hold a number that is not finite, bool [3], in a timestep [...]."""
  return jnp.stack([jnp.any(~jnp.isfinite(getattr(timestep, name))) for name in INPUTS])


def without_flags(metrics: Metrics) -> Metrics:
  """Returns the metrics [] that are logged: not those by which losses say what spoilt them."""
  return {name: x for name, x in metrics.items() if not name.startswith(NOT_FINITE)}


def culprits(env: str, network: Any, corrector: Any) -> list[str]:
  """Names what may have made a metric not finite, for messages, in the order it is looked for.

  Args:
    env: the name of where timesteps come from.
    network: the network plugin.
    corrector: the corrector plugin, or None where the agent has none.
  """
  inputs = [f"{name} of {env}" for name in INPUTS]
  return [*inputs, f"output of {who(network)}", f"targets of {who(corrector)}"]


def first_failure(metrics: Metrics, bad_inputs: Array) -> Array:
  """Finds what made a metric not finite.

  Args:
    metrics: [] each, with the flags of losses among them.
    bad_inputs: of `not_finite`, bool [3].

  Returns:
    An index in (*culprits, *check_order(metrics)), int32 []; -1 where every metric is finite: the
    agent may then leave out what is wrong with its inputs.
  """
  logged = without_flags(metrics)
  # No array of the flags: one that is empty crashes the compiler of jax 0.11 on several devices.
  no = jnp.zeros((), bool)
  flags = [
    functools.reduce(jnp.logical_or, [x > 0 for k, x in metrics.items() if k.startswith(flag)], no)
    for flag in NOT_FINITE
  ]
  order = check_order(list(logged))
  bad = ~jnp.isfinite(jnp.stack([jnp.asarray(logged[name], jnp.float32) for name in order]))
  causes = jnp.concatenate([bad_inputs, jnp.stack(flags), bad])  # argmax: the first that is True
  return jnp.where(jnp.any(bad), jnp.argmax(causes), -1).astype(jnp.int32)

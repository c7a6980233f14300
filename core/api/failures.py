"""What was not finite in an update, and who may have made it so."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from .checks import who
from .types import Array, Metrics, TimeStep

INPUTS = ("observation", "reward", "discount")  # of a TimeStep, what may be not finite
# Metrics of these names are above 0 where the network or the corrector gave what is not finite.
# They are asked when a loss is not, and none of them is logged.
NOT_FINITE = ("not_finite/network", "not_finite/corrector")
# By how their names begin, see `contracts.MetaOptimizer.step`; other metrics come last.
CHECK_ORDER = ("loss/", "grad_norm", "outer_loss/", "metagrad")


def check_order(names: Sequence[str]) -> list[str]:
  """The order in which metrics are checked: causes before what they poison."""

  def rank(name):
    ranks = [i for i, prefix in enumerate(CHECK_ORDER) if name.startswith(prefix)]
    total = name.startswith(("loss/total", "outer_loss/total"))
    return (ranks[0] if ranks else len(CHECK_ORDER), total, name)

  return sorted(names, key=rank)


def not_finite(timestep: TimeStep) -> Array:
  """Which of `INPUTS` hold a number that is not finite: bool [3]."""
  return jnp.stack([jnp.any(~jnp.isfinite(getattr(timestep, name))) for name in INPUTS])


def without_flags(metrics: Metrics) -> Metrics:
  """The metrics that are logged: not those by which losses say what made them not finite."""
  return {name: x for name, x in metrics.items() if not name.startswith(NOT_FINITE)}


def culprits(env: str, network: Any, corrector: Any) -> list[str]:
  """What may have made a metric not finite, in order, for messages.

  Args:
    env: the name of where timesteps come from.
    network: the plugin.
    corrector: the plugin, or None.
  """
  inputs = [f"{name} of {env}" for name in INPUTS]
  return [*inputs, f"output of {who(network)}", f"targets of {who(corrector)}"]


def first_failure(metrics: Metrics, bad_inputs: Array) -> Array:
  """What made a metric not finite: an index in (*culprits, *check_order(metrics)); int32 [].

  -1 where every metric is finite: the agent may then leave out what is wrong with its inputs.

  Args:
    metrics: [], with the flags of losses among them.
    bad_inputs: see `not_finite`.
  """
  logged = without_flags(metrics)
  flags = [
    jnp.any(jnp.array([x > 0 for name, x in metrics.items() if name.startswith(flag)]))
    for flag in NOT_FINITE
  ]
  order = check_order(list(logged))
  bad = ~jnp.isfinite(jnp.stack([jnp.asarray(logged[name], jnp.float32) for name in order]))
  causes = jnp.concatenate([bad_inputs, jnp.stack(flags), bad])
  return jnp.where(jnp.any(bad), jnp.argmax(causes), -1).astype(jnp.int32)

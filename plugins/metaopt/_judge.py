"""What metaparameters minimise: the outer loss, or the distance to a bootstrapped target.

Each gives v, the derivative by theta', which `_chain` pulls back to the metaparameters.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from ...core.api import (
  AgentFns,
  Array,
  Count,
  Metrics,
  NotNegative,
  Positive,
  PyTree,
  Trajectory,
  configurable,
  tunables,
)
from ._chain import Etas, inner_update


@configurable("bootstrap")
@dataclasses.dataclass(frozen=True)
class Bootstrap:
  """Bootstrapped metagradients, BMG (Flennerhag et al. 2022): theta' is to match a target.

  The target goes on from theta' by L - 1 inner updates on the outer batch, and then one step on the
  outer loss. Metaparameters minimise KL(target policy || policy of theta'), and by weight the
  squared distance of values; nothing goes through the target.

  Attributes:
    steps: L.
    learning_rate: of plain gradient descent for the last step; None makes it with the agent's
      optimiser, as configured.
    policy: weight of the KL.
    value: weight of the squared distance of values.
  """

  steps: Count = 1
  learning_rate: Positive | None = None
  policy: NotNegative = 1.0
  value: NotNegative = 0.0


def outer_gradient(
  fns: AgentFns, params: PyTree, gamma: Array, batch: Trajectory, reference: Array
) -> tuple[PyTree, Metrics]:
  """Computes the gradient of the outer loss (Algorithm 2, lines 13 and 14, of STAC).

  Args:
    fns: the agent.
    params: theta', a tree.
    gamma: each head's discount, [P + E + C].
    batch: [T+1, B].
    reference: policies that a KL is to, of each of K micro-batches, [K, Po, T, B/K, A].

  Returns:
    v, a tree like `params`; metrics [].
  """

  def one(trajectory, reference):
    grad = jax.grad(fns.outer_loss, has_aux=True)
    grads, metrics = grad(params, gamma, reference, trajectory)
    return grads, metrics, ()

  # The batch is split as it was when `reference` was made, so slice k is of micro-batch k.
  grads, metrics, _ = fns.accumulate(one, batch, reference)
  return grads, metrics


def matching_gradient(
  fns: AgentFns,
  tuned: Mapping[str, tunables.Tunable],
  bootstrap: Bootstrap,
  params: PyTree,
  opt_state: PyTree,
  step: Array,
  etas: Etas,
  batch: Trajectory,
  reference: Array,
) -> tuple[PyTree, Metrics]:
  """Computes the gradient of the distance between theta' and its bootstrapped target.

  Args:
    fns: the agent.
    tuned: what eta tunes.
    bootstrap: how the target is made.
    params: theta', a tree.
    opt_state: of the agent's optimiser, after theta'.
    step: updates made by then, [].
    etas: by name, that the target's inner updates are made with.
    batch: the outer one, [T+1, B].
    reference: as in `outer_gradient`.

  Returns:
    v, a tree like `params`; metrics [].
  """
  target, gamma = params, fns.gamma(tunables.transform(etas, tuned))
  # From theta' on the target learns as the agent does, and last takes a step down the outer loss.
  for _ in range(bootstrap.steps - 1):
    updated = inner_update(fns, tuned, target, opt_state, step, etas, batch)
    target, opt_state, step = updated.params, updated.opt_state, step + 1
  grads, metrics = outer_gradient(fns, target, gamma, batch, reference)
  if bootstrap.learning_rate is None:
    # {}: a learning rate that is tuned has its configured value here, as all of the outer loss.
    target, _ = fns.optimizer_step(target, grads, opt_state, step, {})
  else:
    target = jax.tree.map(lambda x, g: x - bootstrap.learning_rate * g, target, grads)

  # The target is a constant here: what is minimised moves theta' to it, and not it to theta'.
  def distance(params, trajectory):
    wanted, found = (fns.outer_heads(x, gamma, trajectory) for x in (target, params))
    mask = 1 - trajectory.timestep.first[1:].astype(found.value.dtype)
    # Means over the Po heads, sums over valid transitions: as the losses are.
    # Timestep T, the last one, begins no transition.
    kl = fns.distribution.kl(wanted.policy[:, :-1], found.policy[:, :-1])
    apart = (wanted.value[:, :-1] - found.value[:, :-1]) ** 2
    summed = lambda x: jnp.mean(jnp.sum(x * mask[None], (1, 2)))
    total = bootstrap.policy * summed(kl) + bootstrap.value * summed(apart)
    averaged = lambda x: summed(x) / jnp.maximum(jnp.sum(mask), 1)
    return total, {
      "outer_loss/match_policy": averaged(kl),
      "outer_loss/match_value": averaged(apart),
    }

  def one(trajectory):
    grads, found = jax.grad(distance, has_aux=True)(params, trajectory)
    return grads, found, ()

  v, matched, _ = fns.accumulate(one, batch)
  return v, metrics | matched

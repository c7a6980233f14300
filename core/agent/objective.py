"""The loss: stop gradients, correct, add the terms, mask, reduce (Algorithm 1 of STAC).

The one place that stops gradients and the one place that reduces: terms and correctors do neither.
Losses are summed over time and batch, as in IMPALA; the published optimiser settings assume it.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from ..api import checks
from ..api.contracts import Corrector, Distribution, LossTerm
from ..api.failures import NOT_FINITE
from ..api.types import Array, CorrectorInputs, LossInputs, Metrics, Trajectory
from ..experiment import Objective

QUANTILES = {"q05": 0.05, "q50": 0.5, "q95": 0.95, "max": 1.0}


def masked_mean(x: Array, mask: Array) -> Array:
  return jnp.sum(x * mask) / jnp.maximum(jnp.sum(mask), 1)


def masked_quantiles(x: Array, mask: Array) -> Metrics:
  """Quantiles [] of what the mask leaves; 0, as the masked mean, where it leaves nothing."""
  fractions = jnp.array(list(QUANTILES.values()), x.dtype)
  found = jnp.nanquantile(jnp.where(mask > 0, x, jnp.nan), fractions)
  return dict(zip(QUANTILES, jnp.where(jnp.any(mask > 0), found, 0), strict=True))


def head_loss(
  objective: Objective,
  distribution: Distribution,
  corrector: Corrector,
  terms: Mapping[str, LossTerm],
  trajectory: Trajectory,
  policy: Array,
  value: Array,
  reference: Array,
) -> tuple[Array, Metrics]:
  """The loss of one head, summed over the valid transitions.

  Args:
    objective: gives the reward clip and the cap on the log IS ratio.
    distribution: of the policies.
    corrector: with this head's tuned values bound.
    terms: likewise.
    trajectory: [T+1, B].
    policy: distribution parameters, [T+1, B, A].
    value: [T+1, B].
    reference: distribution parameters, [T, B, A].

  Returns:
    The loss [], and metrics [], means over the valid transitions.
  """
  stop = jax.lax.stop_gradient
  step_t = jax.tree.map(lambda x: x[1:], trajectory.timestep._replace(observation=()))
  reward = step_t.reward
  if objective.max_abs_reward is not None:
    reward = jnp.clip(reward, -objective.max_abs_reward, objective.max_abs_reward)
  mask = 1 - step_t.first.astype(value.dtype)
  log_is = distribution.log_prob(policy[:-1], trajectory.action)
  log_is -= distribution.log_prob(trajectory.behaviour, trajectory.action)
  log_is = stop(jnp.minimum(log_is, objective.max_log_is))

  taken = {"loss/total", *(f"loss/{n}" for n in terms), *(f"is_ratio/{q}" for q in QUANTILES)}
  targets, metrics = checks.targets(
    checks.who(corrector),
    corrector(CorrectorInputs(log_is, stop(value), reward, step_t.discount, mask)),
    mask,
    taken,
  )
  inputs = LossInputs(
    policy=policy[:-1],
    value=value[:-1],
    targets=targets,
    action=trajectory.action,
    behaviour=trajectory.behaviour,
    reference=reference,
    reward=reward,
    discount=step_t.discount,
    distribution=distribution,
  )
  total = jnp.zeros_like(mask)
  for name, term in terms.items():
    loss, term_metrics = checks.loss(checks.who(term), term(inputs), mask, taken | {*metrics})
    total += loss
    metrics |= {f"loss/{name}": loss, **term_metrics}
  metrics["loss/total"] = total
  metrics = {name: masked_mean(x, mask) for name, x in metrics.items()}
  metrics |= {f"is_ratio/{name}": x for name, x in masked_quantiles(jnp.exp(log_is), mask).items()}
  # A logit of -inf is an action that may not be taken.
  of_network = jnp.mean(jnp.isnan(policy)) + jnp.mean(~jnp.isfinite(value))
  of_corrector = jnp.mean(~jnp.isfinite(jnp.stack(targets)))
  metrics |= dict(zip(NOT_FINITE, (of_network, of_corrector), strict=True))
  return jnp.sum(total * mask), metrics

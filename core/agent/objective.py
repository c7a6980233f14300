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
from ..api.types import Array, CorrectorInputs, HeadOut, LossInputs, Metrics, Trajectory
from ..experiment import Objective

QUANTILES = {"q05": 0.05, "q50": 0.5, "q95": 0.95, "max": 1.0}


def masked_mean(x: Array, mask: Array) -> Array:
  """Returns the mean [] of x [T, B] where the mask [T, B] is 1; 0 where it is nowhere."""
  return jnp.sum(x * mask) / jnp.maximum(jnp.sum(mask), 1)


def masked_quantiles(x: Array, mask: Array) -> Metrics:
  """Returns quantiles [] of x [T, B] where the mask [T, B] is 1; 0 where it is nowhere."""
  # NaN stands for what is masked: a boolean index has no static shape.
  fractions = jnp.array(list(QUANTILES.values()), x.dtype)
  found = jnp.nanquantile(jnp.where(mask > 0, x, jnp.nan), fractions)
  return dict(zip(QUANTILES, jnp.where(jnp.any(mask > 0), found, 0), strict=True))


def normalised(x: Array, mask: Array) -> Array:
  """Returns x [T, B] with mean 0 and standard deviation 1 where the mask [T, B] is 1."""
  mean = masked_mean(x, mask)
  variance = masked_mean((x - mean) ** 2, mask)
  return (x - mean) / jnp.sqrt(variance + 1e-8)  # inside the root: equal advantages become 0


def corrector_inputs(
  objective: Objective,
  distribution: Distribution,
  trajectory: Trajectory,
  fixed: HeadOut,
) -> CorrectorInputs:
  """Returns what a corrector sees of one head: arrays [T, B], and values [T+1, B].

  Args:
    objective: gives the reward clip and the cap on the log IS ratio.
    distribution: of the policies.
    trajectory: [T+1, B].
    fixed: policies [T+1, B, A] and values [T+1, B] of the head, see `head_loss`.
  """
  # Transition t has reward, discount and FIRST of t + 1: they LED TO that observation.
  step_t = jax.tree.map(lambda x: x[1:], trajectory.timestep._replace(observation=()))
  reward = step_t.reward
  if objective.max_abs_reward is not None:
    reward = jnp.clip(reward, -objective.max_abs_reward, objective.max_abs_reward)
  mask = 1 - step_t.first.astype(fixed.value.dtype)  # m_{t+1}: an auto-reset ignored this action
  # Line 4. mu is what the actor sampled from, not a newer policy of the same version.
  log_is = distribution.log_prob(fixed.policy[:-1], trajectory.action)
  log_is -= distribution.log_prob(trajectory.behaviour, trajectory.action)
  # The cap is for alpha < 1, where nothing else bounds a ratio: exp() would overflow.
  log_is = jnp.minimum(log_is, objective.max_log_is)
  # Lines 3 to 16. Only V and IS are fixed: gamma, lambda, alpha and the bounds are not.
  return CorrectorInputs(log_is, fixed.value, reward, step_t.discount, mask)


def critic_loss(
  objective: Objective,
  distribution: Distribution,
  trajectory: Trajectory,
  value: Array,
  fixed: HeadOut,
) -> Array:
  """Computes the loss [] of an outer critic: its squared error under the outer corrector, summed.

  Args:
    objective: gives the outer corrector, as configured, and the weight.
    distribution: of the policies.
    trajectory: [T+1, B].
    value: of the critic, [T+1, B].
    fixed: the policy that is judged, [T+1, B, A], and that value, see `head_loss`.

  Raises:
    UserError: the corrector gave something else than [T, B].
  """
  corrector = objective.outer_corrector
  x = corrector_inputs(objective, distribution, trajectory, fixed)
  targets, _ = checks.targets(checks.who(corrector), corrector(x), x.mask, ())
  return objective.outer.critic_cost * jnp.sum(x.mask * (targets.value - value[:-1]) ** 2)


def head_loss(
  objective: Objective,
  distribution: Distribution,
  corrector: Corrector,
  terms: Mapping[str, LossTerm],
  trajectory: Trajectory,
  policy: Array,
  value: Array,
  reference: Array,
  fixed: HeadOut,
  normalise: bool = False,
) -> tuple[Array, Metrics]:
  """Computes the loss of one head, summed over valid transitions (Algorithm 1 of STAC).

  Args:
    objective: gives the reward clip and the cap on the log IS ratio.
    distribution: of the policies.
    corrector: with this head's tuned values bound.
    terms: loss terms by name, with this head's tuned values bound.
    trajectory: [T+1, B].
    policy: distribution parameters, [T+1, B, A].
    value: [T+1, B].
    reference: distribution parameters of the policy that a KL term is to, [T, B, A].
    fixed: policy and value once more, [T+1, B, ...], for what is to have no gradient by theta: IS
      ratios and targets. Stopped, or of other parameters of the same numbers.
    normalise: shift and scale the advantage to mean 0 and standard deviation 1.

  Returns:
    The loss [], and metrics [], means over the valid transitions.

  Raises:
    UserError: a corrector or a term gave something else than [T, B].
  """
  # Names of core's own metrics, which no corrector or term may give to one of theirs.
  taken = {"loss/total", *(f"loss/{n}" for n in terms), *(f"is_ratio/{q}" for q in QUANTILES)}
  x = corrector_inputs(objective, distribution, trajectory, fixed)
  mask = x.mask
  targets, metrics = checks.targets(checks.who(corrector), corrector(x), mask, taken)
  # Only for the terms: whether all is finite is asked of the corrector's own numbers, below.
  used = targets
  if normalise:
    used = targets._replace(advantage=normalised(targets.advantage, mask))
  inputs = LossInputs(
    policy=policy[:-1],
    value=value[:-1],  # not stopped: line 17 regresses it, and x_T has no target
    targets=used,
    action=trajectory.action,
    behaviour=trajectory.behaviour,
    reference=reference,
    reward=x.reward,
    discount=x.discount,
    distribution=distribution,
  )
  total = jnp.zeros_like(mask)  # lines 17 to 24
  for name, term in terms.items():
    loss, term_metrics = checks.loss(checks.who(term), term(inputs), mask, taken | {*metrics})
    total += loss
    metrics |= {f"loss/{name}": loss, **term_metrics}
  metrics["loss/total"] = total
  metrics = {name: masked_mean(x, mask) for name, x in metrics.items()}
  ratios = masked_quantiles(jnp.exp(x.log_is), mask)
  metrics |= {f"is_ratio/{name}": quantile for name, quantile in ratios.items()}
  # As metrics, for no number is known while this is traced; `first_failure` looks at them later.
  # A logit of -inf is an action that may not be taken.
  of_network = jnp.mean(jnp.isnan(policy)) + jnp.mean(~jnp.isfinite(value))
  of_corrector = jnp.mean(~jnp.isfinite(jnp.stack(targets)))
  metrics |= dict(zip(NOT_FINITE, (of_network, of_corrector), strict=True))
  # A sum, as in IMPALA: RMSProp's published rate and epsilon take gradients of this size.
  return jnp.sum(total * mask), metrics

"""The loss: unroll, stop gradients, correct, add the terms, mask, reduce (Algorithm 1 of STAC).

The one place that stops gradients and the one place that reduces: terms and correctors do neither.
Losses are summed over time and batch, as in IMPALA; the published optimiser settings assume it.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from . import checks, tunables
from .behaviour import Behaviour
from .distributions import Distribution
from .interfaces import Corrector, LossTerm, Network
from .types import Array, CorrectorInputs, HeadOut, LossInputs, Metrics, PyTree, Trajectory

# Metrics of these names are above 0 where the network or the corrector gave what is not finite. The
# learner asks them when a loss is not, and logs none of them.
NOT_FINITE = ("not_finite/network", "not_finite/corrector")
QUANTILES = {"q05": 0.05, "q50": 0.5, "q95": 0.95, "max": 1.0}


class Objective(NamedTuple):
  """What both losses of an agent are made of."""

  network: Network
  distribution: Distribution
  behaviour: Behaviour
  corrector_name: str
  corrector: Corrector
  terms: Mapping[str, LossTerm]
  heads: int  # P, those with an eta of their own
  max_abs_reward: float | None
  max_log_is: float


def masked_mean(x: Array, mask: Array) -> Array:
  return jnp.sum(x * mask) / jnp.maximum(jnp.sum(mask), 1)


def masked_quantiles(x: Array, mask: Array) -> Metrics:
  """Quantiles [] of what the mask leaves; 0, as the masked mean, where it leaves nothing."""
  fractions = jnp.array(list(QUANTILES.values()), x.dtype)
  found = jnp.nanquantile(jnp.where(mask > 0, x, jnp.nan), fractions)
  return dict(zip(QUANTILES, jnp.where(jnp.any(mask > 0), found, 0), strict=True))


def head_loss(
  objective: Objective,
  corrector: Corrector,
  terms: Mapping[str, LossTerm],
  trajectory: Trajectory,
  policy: Array,
  value: Array,
  reference: Array,
) -> tuple[Array, Metrics]:
  """The loss of one head, summed over the valid transitions.

  Args:
    objective: gives the distribution, reward clip and cap on the log IS ratio.
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
  log_is = objective.distribution.log_prob(policy[:-1], trajectory.action)
  log_is -= objective.distribution.log_prob(trajectory.behaviour, trajectory.action)
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
    distribution=objective.distribution,
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


def evaluate(objective: Objective, params: PyTree, trajectory: Trajectory, gamma: Array) -> HeadOut:
  """All that the heads say of a trajectory, [P + extra, T+1, B, ...]."""
  out, _ = objective.network.unroll(params, trajectory.timestep, trajectory.core_state, gamma)
  return objective.behaviour.mixed(out)


def head_gamma(objective: Objective, values: Mapping[str, Array]) -> Array:
  """The discount of every head, [P + extra]: tuned where `values` has it, else configured."""
  count, configured = objective.heads + objective.behaviour.extra_heads, objective.corrector.gamma
  tuned = values.get(f"{objective.corrector_name}.gamma")
  if tuned is None:
    return jnp.full(count, configured)
  return jnp.concatenate([tuned, jnp.full(count - len(tuned), configured, tuned.dtype)])


def inner_loss(
  objective: Objective, params: PyTree, values: Mapping[str, Array], trajectory: Trajectory
) -> tuple[Array, tuple[Metrics, Array]]:
  """(1/P) sum_p L(T, theta^p, zeta^p) (Algorithm 2, line 11 of STAC).

  Args:
    objective: the agent's.
    params: of the network.
    values: tuned values by name, [P]; what is absent keeps its configured value.
    trajectory: [T+1, B].

  Returns:
    The loss []; metrics by name, [P]; and the policies that the outer loss is about, stopped,
    [Po, T, B, A].
  """
  out = evaluate(objective, params, trajectory, head_gamma(objective, values))
  plugins = {objective.corrector_name: objective.corrector, **objective.terms}
  head_values = {name: v for name, v in values.items() if name.rsplit(".", 1)[0] in plugins}

  def one_head(values, policy, value):
    bound = tunables.bind(plugins, values)
    corrector = bound.pop(objective.corrector_name)
    return head_loss(objective, corrector, bound, trajectory, policy, value, trajectory.behaviour)

  own = slice(0, objective.heads)
  losses, metrics = jax.vmap(one_head, in_axes=(0, 0, 0), axis_size=objective.heads)(
    head_values, out.policy[own], out.value[own]
  )
  loss = jnp.mean(losses)
  for extra in range(objective.heads, objective.heads + objective.behaviour.extra_heads):
    # Only a value is learned here: it judges the mixed policy with the configured values.
    policy = jax.lax.stop_gradient(out.policy[extra])
    loss += one_head({}, policy, out.value[extra])[0] / objective.heads
  reference = jax.lax.stop_gradient(out.policy[objective.behaviour.outer_heads, :-1])
  return loss, (metrics, reference)


def outer_loss(
  objective: Objective,
  params: PyTree,
  gamma: Array,
  extra_terms: Mapping[str, Any],
  reference: Array,
  trajectory: Trajectory,
) -> tuple[Array, Metrics]:
  """The outer loss: configured values, the acting head, plus the extra terms (STAC, Eq. 3).

  Its advantage is stopped (line 22 of Algorithm 1) because V and the IS ratios are, and nothing
  else in it depends on theta'.

  Args:
    objective: the agent's.
    params: theta', of the network.
    gamma: each head's discount for networks that embed it, [P + extra]; not differentiated.
    extra_terms: loss terms by name that only the outer loss has.
    reference: the policies before the update, [Po, T, B, A].
    trajectory: [T+1, B].

  Returns:
    The loss [], and metrics [].
  """
  heads = objective.behaviour.outer_heads
  out = evaluate(objective, params, trajectory, jax.lax.stop_gradient(gamma[: heads.stop]))

  def one_head(policy, value, reference):
    terms = {**objective.terms, **extra_terms}
    return head_loss(objective, objective.corrector, terms, trajectory, policy, value, reference)

  losses, metrics = jax.vmap(one_head)(out.policy[heads], out.value[heads], reference)
  kept: Metrics = {
    f"outer_{name}": jnp.mean(x) for name, x in metrics.items() if name.startswith("loss/")
  }
  return jnp.mean(losses), kept

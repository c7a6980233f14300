"""The meta-optimiser that tunes nothing: the baseline."""

import dataclasses

import optax

from ...core.api import (
  AgentFns,
  LearnerState,
  Metrics,
  PyTree,
  Trajectory,
  register,
)
from ._update import inner_gradient


@register("metaopt", "fixed")
@dataclasses.dataclass(frozen=True)
class Fixed:
  """Tunes nothing: IMPALA; with several heads, IMPALA with auxiliary tasks."""

  def init(self, fns: AgentFns, state: LearnerState, batch: Trajectory) -> PyTree:
    """Returns (): there is no meta state, whatever the batch [T+1, B]."""
    del fns, state, batch
    return ()

  def step(
    self, fns: AgentFns, state: LearnerState, batch: Trajectory
  ) -> tuple[LearnerState, Metrics]:
    """Takes one optimiser step on the inner loss of a batch [T+1, B]; metrics are []."""
    # {}: no values are tuned, so every plugin has its configured ones.
    grads, metrics, _ = inner_gradient(fns, state.params, {}, batch)
    params, opt_state = fns.optimizer_step(state.params, grads, state.opt_state, state.step, {})
    metrics["grad_norm"] = optax.tree.norm(grads)
    return state._replace(params=params, opt_state=opt_state), metrics

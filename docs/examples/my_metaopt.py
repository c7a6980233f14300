"""IMPALA with a bound on the length of its gradient."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from selftune import AgentFns, LearnerState, Metrics, Positive, PyTree, Trajectory, register


@register("metaopt", "clipped")
@dataclasses.dataclass(frozen=True)
class Clipped:
  """g <- g min(1, bound / |g|); tunes nothing."""

  bound: Positive = 40.0

  def init(self, fns: AgentFns, state: LearnerState, batch: Trajectory) -> PyTree:
    return ()  # nothing to remember from update to update

  def step(
    self, fns: AgentFns, state: LearnerState, batch: Trajectory
  ) -> tuple[LearnerState, Metrics]:
    def gradient(part: Trajectory):
      grads, (metrics, _) = jax.grad(fns.inner_loss, has_aux=True)(state.params, {}, part)
      return grads, {name: jnp.mean(x) for name, x in metrics.items()}, ()

    grads, metrics, _ = fns.accumulate(gradient, batch)  # over micro-batches and devices
    norm = optax.tree.norm(grads)
    grads = optax.tree.scale(jnp.minimum(1.0, self.bound / jnp.maximum(norm, 1e-6)), grads)
    params, opt_state = fns.optimizer_step(state.params, grads, state.opt_state, state.step, {})
    return state._replace(params=params, opt_state=opt_state), metrics | {"grad_norm": norm}

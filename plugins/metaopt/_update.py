"""The inner gradient that every gradient-based meta-optimiser starts from."""

from collections.abc import Mapping

import jax

from ...core.api import AgentFns, Array, Metrics, PyTree, Trajectory


def inner_gradient(
  fns: AgentFns, params: PyTree, values: Mapping[str, Array], batch: Trajectory
) -> tuple[PyTree, Metrics, Array]:
  """Computes grad_theta (1/P) sum_p L(T, theta^p, zeta^p) (Algorithm 2, line 11 of STAC).

  Args:
    fns: the agent.
    params: theta, a tree.
    values: tuned values by name, [P]; what is absent keeps its configured value.
    batch: [T+1, B].

  Returns:
    The gradient, a tree like `params`; metrics [] by name, `<name>/<head>`; and the reference
    policies of each of K micro-batches, [K, Po, T, B/K, A].
  """

  def one(trajectory):
    grad = jax.grad(fns.inner_loss, has_aux=True)
    grads, (metrics, reference) = grad(params, values, trajectory)
    return grads, metrics, reference  # summed, averaged and stacked: the loss is a sum over [T, B]

  grads, metrics, reference = fns.accumulate(one, batch)
  per_head = {f"{name}/{p}": x[p] for name, x in metrics.items() for p in range(len(x))}
  return grads, per_head, reference

"""A chain of inner updates, and the derivative of what follows it by the metaparameters.

With theta_{k+1}, o_{k+1} = OPT(theta_k, o_k, g_k, eta_k) and g_k = grad_theta L_inner(theta_k,
eta_k) on batch k, and v the derivative of the outer objective by theta_K, the chain is gone through
backwards. Of every update, w = (d OPT / d g)' v is v pulled back to its gradient, and

    grad_{theta, eta} < grad_theta L_inner(theta_k, eta_k), w >

is what goes on to theta_k and eta_k by way of the gradient. The bracket is the derivative of
L_inner along w: one forward-mode pass, of which the gradient is taken, so no gradient is ever
differentiated by reverse mode (MixFlow-MG, arXiv 2505.00793). Every pass runs over micro-batches
and devices on its own and keeps nothing for the next, so memory does not grow with K but by the
parameters and batches of each update.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ...core.api import AgentFns, Array, Metrics, PyTree, Trajectory, tunables
from ._update import inner_gradient

Etas = dict[str, Array]


class Update(NamedTuple):
  """One inner update: all that its derivative needs."""

  params: PyTree  # theta_k, before it
  opt_state: PyTree
  grads: PyTree  # g_k
  batch: Trajectory  # [T+1, B]
  etas: Etas  # [P] or [1] each
  recent: Array | tuple[()]  # [S] statistics that a context has made eta from; () without one


class Updated(NamedTuple):
  """What an inner update gives."""

  update: Update
  params: PyTree
  opt_state: PyTree
  metrics: Metrics  # []
  reference: Array  # [K, Po, T, B/K, A], policies of theta_k on the batch


def inner_update(
  fns: AgentFns,
  tuned: Mapping[str, tunables.Tunable],
  params: PyTree,
  opt_state: PyTree,
  step: Array,
  etas: Etas,
  batch: Trajectory,
  recent: Array | tuple[()] = (),
) -> Updated:
  """Makes one update of the agent on a batch [T+1, B] (Algorithm 2, lines 10 to 12, of STAC).

  Args:
    fns: the agent.
    tuned: what eta tunes.
    params: theta, a tree of arrays [...].
    opt_state: of the agent's optimiser.
    step: updates made, [].
    etas: by name, [P] or [1].
    batch: [T+1, B].
    recent: see `Update`.
  """
  values = tunables.transform(etas, tuned)
  grads, metrics, reference = inner_gradient(fns, params, values, batch)
  new_params, new_opt_state = fns.optimizer_step(params, grads, opt_state, step, values)
  update = Update(params, opt_state, grads, batch, etas, recent)
  return Updated(update, new_params, new_opt_state, metrics, reference)


def derivative(
  fns: AgentFns,
  tuned: Mapping[str, tunables.Tunable],
  updates: Sequence[Update],
  first_step: Array,
  v: PyTree,
) -> list[Etas]:
  """Pulls a derivative by theta_K back to the metaparameters of every update.

  Args:
    fns: the agent.
    tuned: what eta tunes.
    updates: K of them, each from where the one before it led.
    first_step: updates made before the first of them, [].
    v: derivative by theta_K, a tree like it.

  Returns:
    The derivative by eta_k for each update, in order: by name, [P] or [1].
  """
  gradients: list[Etas] = []
  d_params, d_opt_state = v, None
  for k, update in reversed(list(enumerate(updates))):
    d_params, d_opt_state, w, direct = _through_optimizer(
      fns, tuned, update, first_step + k, d_params, d_opt_state
    )
    # Nobody asks for the derivative by theta_0, which costs a backward pass of the whole network.
    by_etas, by_params = _through_gradient(fns, tuned, update, w, by_params=k > 0)
    gradients.insert(0, jax.tree.map(jnp.add, direct, by_etas))
    if k > 0:
      d_params = jax.tree.map(jnp.add, d_params, by_params)
  return gradients


def _through_optimizer(fns, tuned, update: Update, step, d_params, d_opt_state):
  """Pulls derivatives by what an update gave back through the optimiser's step.

  Args:
    fns: the agent.
    tuned: what eta tunes.
    update: the update.
    step: updates made before it, [].
    d_params: derivative by theta_{k+1}.
    d_opt_state: derivative by o_{k+1}; None where nothing depends on it.

  Returns:
    The derivatives by theta_k, o_k, g_k (w) and eta_k.
  """

  def optimise(params, opt_state, grads, etas):
    # eta is an argument of its own: a tuned learning rate reaches theta' past g. The second moment
    # is inside, so w holds its part of the derivative.
    values = tunables.transform(etas, tuned)
    new = fns.optimizer_step(params, grads, opt_state, step, values)
    return new[0] if d_opt_state is None else new

  point = (update.params, update.opt_state, update.grads, update.etas)
  _, pull_back = jax.vjp(optimise, *point)
  return pull_back(d_params if d_opt_state is None else (d_params, d_opt_state))


def _through_gradient(fns, tuned, update: Update, w, by_params: bool):
  """Computes the derivatives of < grad_theta L_inner, w > by eta and, if asked, by theta.

  Args:
    fns: the agent.
    tuned: what eta tunes.
    update: where the gradient was taken.
    w: a constant tree like theta.
    by_params: whether the second one is asked for.
  """

  def along(etas, params, trajectory):
    values = tunables.transform(etas, tuned)
    # The gradient takes IS ratios and targets for constants, but they too move with theta_k.
    fixed = params if by_params else None
    loss = lambda params: fns.inner_loss(params, values, trajectory, fixed)[0]
    # Forward mode: what depends on eta then comes behind the network, and the backward pass by eta
    # alone need not go through it.
    return jax.jvp(loss, (params,), (w,))[1]

  def one(trajectory):
    which = (0, 1) if by_params else (0,)
    return jax.grad(along, which)(update.etas, update.params, trajectory), (), ()

  found, _, _ = fns.accumulate(one, update.batch)
  return found if by_params else (*found, None)

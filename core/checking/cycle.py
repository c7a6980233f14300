"""A cycle of metagradients written plainly, from the agent's losses and optimiser alone.

K updates on their batches, then what judges them, as one function of eta, of which differences are
taken. Nothing is called of the meta-optimiser whose derivative they are compared with.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..api import tunables
from ..api.contracts import AgentFns, Cycle
from ..api.tunables import Etas
from ..api.types import Array, LearnerState, PyTree, Trajectory

Tuned = Mapping[str, tunables.Tunable]
SIZE = 1e-4  # step in eta: differences err by about its square, and by EPSILON / SIZE of rounding
EPSILON = 1e-16  # about the unit roundoff of float64, 2^-53


class Made(NamedTuple):
  """Where K inner updates led."""

  params: PyTree  # theta_K
  opt_state: PyTree
  step: Array  # updates made by then, []
  before: PyTree  # theta_{K-1}
  values: Mapping[str, Array]  # tuned values of the last update, as plugins see them


def inner(
  fns: AgentFns,
  values: Mapping[str, Array],
  params: PyTree,
  opt_state: PyTree,
  step: Array,
  batch: Trajectory,
) -> tuple[PyTree, PyTree]:
  """Makes one inner update on a batch [T+1, B].

  Args:
    fns: the agent.
    values: tuned values by name, [P] or [1].
    params: theta_k, a tree of arrays [...].
    opt_state: of the agent's optimiser.
    step: updates made before it, [].
    batch: [T+1, B].

  Returns:
    theta_{k+1}, and the optimiser's state.
  """
  grads = jax.grad(lambda params: fns.inner_loss(params, values, batch)[0])(params)
  return fns.optimizer_step(params, grads, opt_state, step, values)


def made(
  fns: AgentFns,
  tuned: Tuned,
  state: LearnerState,
  batches: Sequence[Trajectory],
  etas: Sequence[Mapping[str, Array]],
) -> Made:
  """Makes K inner updates.

  Args:
    fns: the agent.
    tuned: what eta tunes.
    state: before them.
    batches: of each, [T+1, B].
    etas: of each, by name, [P] or [1].
  """
  params, opt_state, step = state.params, state.opt_state, state.step
  before, values = params, {}
  # theta_{K-1} and its values are kept: a KL of the outer loss is to the policy before the last
  # update, which both of them give.
  for batch, eta in zip(batches, etas, strict=True):
    before, values = params, tunables.transform(dict(eta), tuned)
    params, opt_state = inner(fns, values, params, opt_state, step, batch)
    step = step + 1
  return Made(params, opt_state, step, before, values)


class Judge(NamedTuple):
  """What is held still while eta moves: all that the method stops."""

  now: PyTree  # theta_K
  gradient: PyTree  # v, of the outer loss at theta_K; zeros where there is a target
  target: PyTree  # that theta_K is to match; theta_K where there is none
  gamma: Array  # [P + E + C]


def judge(fns: AgentFns, cycle: Cycle, at: Made) -> Judge:
  """Prepares what judges theta_K: the gradient of the outer loss, or a target."""
  gamma = fns.gamma(at.values)
  reference = fns.outer_heads(at.before, gamma, cycle.outer).policy[:, :-1]
  gradient = jax.grad(lambda x: fns.outer_loss(x, gamma, reference, cycle.outer)[0])
  if cycle.target is None:
    return Judge(at.params, gradient(at.params), at.params, gamma)
  # A bootstrapped target (Flennerhag et al. 2022): L - 1 updates go on from theta_K on the outer
  # batch, then comes one step on the outer loss, with the optimiser as configured.
  target, opt_state, step = at.params, at.opt_state, at.step
  for _ in range(cycle.target.steps - 1):
    target, opt_state = inner(fns, at.values, target, opt_state, step, cycle.outer)
    step = step + 1
  found, rate = gradient(target), cycle.target.learning_rate
  if rate is None:
    target, _ = fns.optimizer_step(target, found, opt_state, step, {})
  else:
    target = jax.tree.map(lambda x, g: x - rate * g, target, found)
  return Judge(at.params, jax.tree.map(jnp.zeros_like, found), target, gamma)


def judged(fns: AgentFns, cycle: Cycle, params: PyTree, by: Judge) -> Array:
  """Returns the objective [] of theta_K, up to a constant."""
  if cycle.target is None:
    # L_outer stops its advantages: only its gradient at theta_K is the objective's. And as a
    # difference, which rounds less.
    return jnp.asarray(optax.tree.vdot(by.gradient, jax.tree.map(jnp.subtract, params, by.now)))
  wanted, found = (fns.outer_heads(x, by.gamma, cycle.outer) for x in (by.target, params))
  apart = cycle.target.value * (wanted.value - found.value)[:, :-1] ** 2
  apart += cycle.target.policy * fns.distribution.kl(wanted.policy[:, :-1], found.policy[:, :-1])
  # A mean over the Po heads and a sum over valid transitions, as losses have them.
  return jnp.sum(jnp.where(cycle.outer.timestep.first[1:], 0, jnp.mean(apart, 0)))


class Objective(NamedTuple):
  """The objective of a cycle."""

  of: Callable[[Sequence[Etas]], Array]  # [], of eta of each update, by name
  noise: float  # of its central differences, by rounding alone


def objective(fns: AgentFns, tuned: Tuned, state: LearnerState, cycle: Cycle) -> Objective:
  """Returns the objective [] of a cycle as a function of eta of each update, [P] or [1] by name.

  Args:
    fns: the agent.
    tuned: what eta tunes.
    state: before the cycle.
    cycle: its batches, [T+1, B] each, and what judges them.
  """
  # Batches and parameters are arguments: XLA would else fold them, slowly.
  run = jax.jit(lambda state, inner, etas: made(fns, tuned, state, inner, etas))
  etas = [cycle.used(cycle.etas, cycle.more, k) for k in range(len(cycle.inner))]
  at = run(state, cycle.inner, etas)
  judging = lambda outer: cycle._replace(inner=(), outer=outer)

  @jax.jit
  def prepared(at: Made, outer: Trajectory) -> tuple[Judge, Array]:
    by = judge(fns, judging(outer), at)
    distance = lambda params: judged(fns, judging(outer), params, by)
    value, grads = jax.value_and_grad(distance)(at.params)
    # Every parameter rounds on its own, by EPSILON of its size; a difference divides that by SIZE.
    rounded = optax.tree.norm(jax.tree.map(jnp.multiply, grads, at.params))
    return by, EPSILON / SIZE * (rounded + jnp.abs(value))

  @jax.jit
  def distance(params: PyTree, by: Judge, outer: Trajectory) -> Array:
    return judged(fns, judging(outer), params, by)

  # Once, with eta as it is: what the method stops must stand still while eta is moved below.
  by, noise = prepared(at, cycle.outer)
  of = lambda etas: distance(run(state, cycle.inner, etas).params, by, cycle.outer)
  return Objective(of, float(noise))


def differences(f: Callable[[PyTree], Array], x: PyTree, size: float = SIZE) -> PyTree:
  """Returns central differences of a function, by each number of a tree of arrays [...]."""
  found: Any = jax.tree.map(lambda leaf: np.zeros(np.shape(leaf)), x)
  leaves, tree = jax.tree.flatten(x)
  for n, leaf in enumerate(leaves):
    for at in np.ndindex(np.shape(leaf)):
      ends = []
      for sign in (1, -1):
        moved = [np.array(leaf) for leaf in leaves]
        moved[n][at] += sign * size
        ends.append(float(f(tree.unflatten(moved))))
      jax.tree.leaves(found)[n][at] = (ends[0] - ends[1]) / (2 * size)
  return found


class Gradient(NamedTuple):
  """The derivative of a cycle's objective, by differences."""

  by_eta: dict[str, np.ndarray]  # [P] or [1]
  norm: float  # by etas and `more`, all together
  noise: float  # of rounding alone


def gradient(fns: AgentFns, tuned: Tuned, state: LearnerState, cycle: Cycle) -> Gradient:
  """Returns the derivative of a cycle's objective by differences.

  Only eta is moved: what differences by eta of every update say is pulled back to `more`.

  Args:
    fns: the agent.
    tuned: what eta tunes.
    state: before the cycle.
    cycle: its batches, [T+1, B] each, and what judges them.

  Returns:
    By eta, [P] or [1] by name; and the norm by eta and `more` together.
  """
  (f, noise), k = objective(fns, tuned, state, cycle), range(len(cycle.inner))
  used = lambda etas, more: [dict(cycle.used(etas, more, i)) for i in k]
  by_eta = differences(lambda etas: f(used(etas, cycle.more)), dict(cycle.etas))
  squares = sum(float(np.sum(x**2)) for x in by_eta.values())
  if jax.tree.leaves(cycle.more):
    of_each = differences(f, used(cycle.etas, cycle.more))
    _, pull_back = jax.vjp(lambda more: used(cycle.etas, more), cycle.more)
    squares += sum(float(jnp.sum(x**2)) for x in jax.tree.leaves(pull_back(of_each)))
  return Gradient(by_eta, squares**0.5, noise)

"""Online actor-critic with eligibility traces: AC(lambda), its step sizes set by a tuner."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from ...core.api import (
  BINS,
  Advance,
  AgentFns,
  Array,
  Components,
  Described,
  Fraction,
  FunctionalEnvironment,
  Histogram,
  Iteration,
  LearnerState,
  Metrics,
  NotNegative,
  Parts,
  Positive,
  PyTree,
  RunState,
  ScalarTuner,
  SparseNetwork,
  Trajectory,
  Tuner,
  TunerInputs,
  checks,
  register,
)
from ..tuners.constant_step import ConstantStep
from ._native import natively
from ._online import clipped, continues, entropy_gradient
from ._sparse import block


class Online(NamedTuple):
  """The meta state: what AC(lambda) carries from step to step beside the parameters."""

  trace: Array  # [N] z
  tuner: PyTree


@register("metaopt", "ac_lambda")
@dataclasses.dataclass(frozen=True)
class AcLambda:
  """Online AC(lambda) with an entropy regulariser (Metatrace, section 4): an update every step.

      U = V(S) + 1/2 log pi(A|S),    delta = R + gamma d' V(S') - V(S)
      z <- gamma lambda z + grad U,  w <- w + alpha (z delta + psi grad H)

  Learns from one stream: train.unroll_length = 1 and one environment a run. z is reset where an
  episode starts, and where d' was 0 although it went on: a life was lost. Takes any network; a
  recurrent one is differentiated through one step.

  Attributes:
    tuner: sets alpha at every step; `constant_step` leaves it as it is.
    alpha: alpha_0, the initial step size.
    gamma: discount.
    lambda_: decay of the traces beside gamma.
    entropy: psi, weight of the policy's entropy; 0 where actions are continuous.
    max_abs_reward: rewards are clipped to this for learning; None leaves them raw.
    groups: of features, by name: ranges of the last axis of every array of parameters, whose mean
      step sizes are logged. An array that ends before a range begins has no row of it.
  """

  tuner: Tuner = dataclasses.field(default_factory=ConstantStep)
  alpha: Positive = 2**-8
  gamma: Fraction = 0.99
  lambda_: Fraction = 0.8
  entropy: NotNegative = 0.0
  max_abs_reward: Positive | None = None
  groups: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict)

  def check(self, components: Components) -> None:
    """Checks the settings; it takes any agent.

    Raises:
      ValueError: one of `groups` is no range.
    """
    del components  # it tunes step sizes only
    for name, (start, stop) in self.groups.items():
      if not 0 <= start < stop:
        raise ValueError(
          f"groups['{name}'] = {(start, stop)}: a range begins at 0 or above, and before its end."
        )

  def init(self, fns: AgentFns, state: LearnerState, batch: Trajectory) -> Online:
    """Returns the meta state before the first step: z = 0, [N], and the tuner's state.

    Raises:
      ValueError: the network has more heads than the one that learns; or batches are not
        [1 + 1, 1], one transition of one stream.
    """
    # `gamma` has one entry a head; which numbers they are does not matter.
    if len(fns.gamma({})) != 1:
      raise ValueError(
        "ac_lambda learns one head, and others would act untrained: write agent.heads = 1, "
        "agent.behaviour = 'first', and no outer critic"
      )
    if batch.action.shape[:2] != (1, 1):
      t, b = batch.action.shape[:2]
      raise ValueError(
        f"ac_lambda learns from one transition of one stream, not from {t} of {b}: write "
        "train.unroll_length = 1 and train.num_envs = 1"
      )
    params, _ = ravel_pytree(state.params)  # one vector: a tuner's dot products are over all of it
    tuner = checks.arrays(
      checks.who(self.tuner), "its first state", self.tuner.init(self.alpha, params)
    )
    return Online(jnp.zeros_like(params), tuner)

  def step(
    self, fns: AgentFns, state: LearnerState, batch: Trajectory
  ) -> tuple[LearnerState, Metrics]:
    """Learns from one transition [1 + 1, 1] (Algorithm 1 of Metatrace, lines 5 to 15).

    Returns:
      The new state; it is the old one where an episode has begun. Metrics []: the TD error and the
      norm of the parameters.
    """
    params, unravel = ravel_pytree(state.params)
    x = self.inputs(fns, state.params, state.meta_state.trace, batch)
    old = state.meta_state.tuner
    tuner, alpha = checks.tuner(checks.who(self.tuner), self.tuner.update(old, x), old, params)
    # The tuner comes first: this step is made with the alpha that it ends with (line 15).
    params += alpha * (x.trace * x.delta + x.bonus)
    new = state._replace(params=unravel(params), meta_state=Online(x.trace, tuner))
    valid = ~batch.timestep.first[1, 0]  # else there was no transition: a new episode has begun
    new = jax.tree.map(lambda new, old: jnp.where(valid, new, old), new, state)
    return new, {"delta": x.delta, "param_norm": jnp.sqrt(jnp.vdot(params, params))}

  def fused(
    self, fns: AgentFns, env: FunctionalEnvironment, active: Callable[[RunState], Array]
  ) -> Iteration | None:
    """Returns a form whose cost does not depend on the number of features, if they are sparse.

    It makes `_sparse.STEPS` iterations of a run with one environment, [1, ...], at a time.

    Args:
      fns: the agent.
      env: one environment.
      active: says of a run whether it is still going, [] bool.

    Returns:
      The iteration; None where the network has no binary features, or the tuner more than one
      step size.
    """
    if not (isinstance(fns.network, SparseNetwork) and isinstance(self.tuner, ScalarTuner)):
      return None
    return functools.partial(block, self, fns, env, active)

  def natively(self, fns: AgentFns, runs: Sequence[Parts]) -> Advance | str:
    """Returns what advances runs of linear agents by machine code, or why they have none."""
    return natively(fns, runs)

  def inputs(self, fns: AgentFns, params: PyTree, trace: Array, batch: Trajectory) -> TunerInputs:
    """Computes everything that one step depends on (lines 5 and 6).

    Args:
      fns: give network and distribution.
      params: of the network, a tree of N numbers.
      trace: z of the previous step, [N].
      batch: one transition, [1 + 1, 1].

    Returns:
      The TD error and its gradients, vectors [N].
    """
    # S and S', each still a sequence [1, 1, ...]: networks know nothing else.
    step_t, step_tp1 = (jax.tree.map(lambda x, i=i: x[i : i + 1], batch.timestep) for i in range(2))
    heads = jnp.zeros(1)  # discounts [P] of one head; without an objective they are of no use

    def now(params):
      out, core = fns.network.unroll(params, step_t, batch.core_state, heads)
      return (out.value[0, 0, 0], out.policy[0, 0, 0]), core

    # One forward pass serves grad V, grad U and grad H: they differ in the cotangents alone.
    (value, policy), pull_back, core = jax.vjp(now, params, has_aux=True)

    # `core` is a constant here: a recurrent network is differentiated through one step only.
    def then(params):
      return fns.network.unroll(params, step_tp1, core, heads)[0].value[0, 0, 0]

    next_value, pull_next = jax.vjp(then, params)
    one, none = jnp.ones_like(value), jnp.zeros_like(policy)
    # Derivatives by the distribution's parameters; the pullback carries these on to the weights.
    d_log_prob = jax.grad(fns.distribution.log_prob)(policy, batch.action[0, 0])
    d_entropy = entropy_gradient(self.entropy, fns.distribution, policy)

    def gradient(value_part, policy_part):
      return ravel_pytree(pull_back((value_part, policy_part))[0])[0]

    reward = clipped(step_tp1.reward[0, 0], self.max_abs_reward)
    discount = self.gamma * step_tp1.discount[0, 0].astype(value.dtype)  # 0: V of an end is 0
    running = continues(step_t.first, step_t.discount)[0, 0].astype(value.dtype)
    # Line 6: U = V + 1/2 log pi, so the value's cotangent is 1 and the policy's has the 1/2.
    grad_u = gradient(one, d_log_prob / 2)
    decay = self.gamma * self.lambda_ * running
    return TunerInputs(
      delta=reward + discount * next_value - value,
      decay=decay,
      trace=decay * trace + grad_u,
      trace_tm1=running * trace,  # not decayed: AutoTIDBD wants z as it was
      grad_u=grad_u,
      grad_v=gradient(one, none),
      grad_next=ravel_pytree(pull_next(discount)[0])[0],
      bonus=gradient(0 * one, d_entropy),
    )

  def describe(self, state: LearnerState) -> Described:
    """Returns what is logged of a state: log step sizes beta and norms of traces, [] each.

    `beta` is the histogram over all parameters, `beta/<name>` the mean over an array of them, and
    `beta/<name>/<group>` over one of `groups` in it.
    """
    online: Online = state.meta_state
    name = checks.who(self.tuner)
    beta = self.tuner.beta(online.tuner)
    beta = jnp.asarray(checks.step_sizes(name, "beta", beta, online.trace))
    of_tuner = checks.metrics(name, self.tuner.metrics(online.tuner), ())
    rows: Described = {
      "beta/mean": jnp.mean(beta),
      "trace_norm": jnp.linalg.norm(online.trace),
      **of_tuner,
    }
    if beta.ndim == 0:
      return rows
    rows["beta"] = Histogram(*jnp.histogram(beta, BINS))
    # beta has the layout of the parameters, so their tree gives its parts their names.
    _, unravel = ravel_pytree(state.params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(unravel(beta)):
      name = jax.tree_util.keystr(path, simple=True, separator="/")
      rows[f"beta/{name}"] = jnp.mean(leaf)
      for group, (start, stop) in self.groups.items():
        # The mean of a range that begins beyond the array would be that of nothing.
        if leaf.ndim and start < leaf.shape[-1]:
          rows[f"beta/{name}/{group}"] = jnp.mean(leaf[..., start:stop])
    return rows

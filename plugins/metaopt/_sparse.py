"""AC(lambda) on sparse binary features: many steps that touch no vector of all parameters.

Parameters, trace and h are matrices [1 + A, F]. Every gradient of step k is an outer product of a
vector of 1 + A numbers and the features phi_k. So whatever AC(lambda) and a tuner of one step size
do in a block of T steps, the three stay in the span of what they were at its start and of the
features met since:

    w = w_0 + s_w z_0 + Q_w Phi,    z = s_z z_0 + Q_z Phi,    h = h_0 + s_h z_0 + Q_h Phi

with Phi [T, F] the features of the block, s numbers and Q [1 + A, T]. A step changes s and Q only.
It needs products with phi_t alone: sums of the active columns of w_0, z_0 and h_0, and how many
features phi_t shares with each phi_k. The three are written out at the end of the block. Nothing is
approximated.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from ...core.api import (
  AgentFns,
  Array,
  Distribution,
  Dots,
  Ends,
  FunctionalEnvironment,
  Metrics,
  PyTree,
  RunState,
  ScalarTuner,
  SparseNetwork,
  TimeStep,
  as_specified,
  checks,
  count,
  first_failure,
  not_finite,
  unless_ended,
)
from ._online import Settings, clipped, continues, entropy_gradient

METRICS = ("delta", "param_norm")  # of `AcLambda.step`
STEPS = 16  # T: writing out costs more with every step, reading the memory less with each


class Span(NamedTuple):
  """w, z and h (in this order) within a block, and what is known of phi_t."""

  scale: Array  # [3] s
  coefficients: Array  # [3, 1 + A, T] Q
  met: Array  # [T, K] int32, active features of each step so far; -1 where none yet
  sums: Array  # [3, 1 + A] (w_0, z_0, h_0) phi_t
  shared: Array  # [T] features that phi_t shares with those met before


class Carry(NamedTuple):
  """The state that a step of a block changes."""

  run: RunState  # without parameters and meta state
  span: Span
  rule: PyTree
  z_z: Array  # [] |z|^2
  z_h: Array  # [] <z | h>


def as_matrix(params: PyTree) -> Array:
  """Returns parameters of a linear network with one head as [1 + A, F], the value's row first."""
  return jnp.concatenate([params["value"], params["policy"][0]])


def as_params(matrix: Array) -> PyTree:
  """Returns the parameters that `as_matrix` has made [1 + A, F] of."""
  return {"value": matrix[:1], "policy": matrix[None, 1:]}


def products(span: Span, sums: Array, shared: Array) -> Array:
  """Computes (w, z, h) phi, [3, 1 + A], without w, z or h.

  Args:
    span: of the block.
    sums: (w_0, z_0, h_0) phi, [3, 1 + A].
    shared: how many features phi shares with each phi_k met so far, [T].
  """
  w_0, z_0, h_0 = sums
  start = jnp.stack([w_0, jnp.zeros_like(w_0), h_0])  # z has no constant part: z_0 comes with s_z
  return start + span.scale[:, None] * z_0[None] + span.coefficients @ shared


def block(
  ac: Settings,
  fns: AgentFns,
  env: FunctionalEnvironment,
  active: Callable[[RunState], Array],
  state: RunState,
) -> tuple[RunState, Ends, Metrics]:
  """Makes `STEPS` iterations of one run, equal to as many of `core.runs.iteration.iterate`.

  It gives no metrics.

  Args:
    ac: the meta-optimiser; its tuner is a `ScalarTuner`.
    fns: its network is sparse.
    env: the environment that it acts in.
    active: says of a run whether it is still going, [] bool.
    state: of the run, with one environment, [1, ...].

  Returns:
    The state after them, and the episodes that ended, [STEPS, 1].
  """
  network = fns.network
  assert isinstance(network, SparseNetwork)
  online, tuned = state.learner.meta_state, state.learner.meta_state.tuner
  flat_w, unravel = ravel_pytree(state.learner.params)
  # A constant step size has no h: zeros stand in for it, and what becomes of them is dropped.
  flat_h = jnp.zeros_like(flat_w) if isinstance(tuned.h, tuple) else tuned.h
  w, z, h = (as_matrix(unravel(x)) for x in (flat_w, online.trace, flat_h))
  start = (w, z, h)

  # Within a block nothing else reads the matrices, and of each this reads K of F columns.
  def sums(features):
    return jnp.stack([jnp.sum(x[:, features], axis=-1) for x in start])

  features = network.active(state.timestep.observation[0])
  span = Span(
    scale=jnp.array([0.0, 1.0, 0.0], w.dtype),  # w = w_0, z = z_0, h = h_0
    coefficients=jnp.zeros((3, w.shape[0], STEPS), w.dtype),
    met=jnp.full((STEPS, features.size), -1, features.dtype),
    sums=sums(features),
    shared=jnp.zeros(STEPS, w.dtype),
  )
  # The matrices stay out of the carry: `unless_ended` selects over all of it, at every step.
  small = state._replace(learner=state.learner._replace(params=(), meta_state=()))
  carry = Carry(small, span, tuned.rule, jnp.vdot(z, z), jnp.vdot(z, h))
  # The keys that core.runs.iteration.act and Functions.act would draw with.
  t = jnp.arange(STEPS)
  keys = jax.vmap(lambda i: jax.random.fold_in(state.key, state.learner.step + i))(t)
  keys = jax.vmap(lambda key: jax.random.fold_in(jax.random.split(key)[1], 0))(keys)

  def body(carry, x):
    return unless_ended(active(carry.run), step(ac, fns, env, sums, carry, *x), carry)

  carry, ends = jax.lax.scan(body, carry, (t, keys))
  w, z, h = (as_params(x) for x in written_out(carry.span, start))
  h = tuned.h if isinstance(tuned.h, tuple) else ravel_pytree(h)[0]
  tuned = tuned._replace(rule=carry.rule, h=h)
  learner = carry.run.learner._replace(
    params=w, meta_state=online._replace(trace=ravel_pytree(z)[0], tuner=tuned)
  )
  return carry.run._replace(learner=learner), ends, {}


def step(
  ac: Settings,
  fns: AgentFns,
  env: FunctionalEnvironment,
  sums: Callable[[Array], Array],
  carry: Carry,
  t: Array,
  key: Array,
) -> tuple[Carry, Ends]:
  """Makes step t of a block: acts, steps the environment, and learns if there was a transition.

  Args:
    ac: the meta-optimiser.
    fns: the agent.
    env: the environment.
    sums: from active features [K] to (w_0, z_0, h_0) phi, [3, 1 + A].
    carry: what the steps before have made.
    t: which step of the block, [] int32.
    key: of the action.

  Returns:
    The new carry, and the episodes that ended, [1].
  """
  assert isinstance(fns.network, SparseNetwork)
  run, span, active = carry.run, carry.span, fns.network.active
  phi = products(span, span.sums, span.shared)
  sample = fns.distribution.sample(key, phi[:1, 1:])  # row w without the value: the logits
  env_state, timestep = jax.vmap(env.step)(run.env, fns.distribution.to_action(sample))
  timestep = as_specified(timestep, env.spec, jnp.asarray)
  features, next_features = active(run.timestep.observation[0]), active(timestep.observation[0])
  met = jnp.where((jnp.arange(STEPS) == t)[:, None], features[None], span.met)
  # Group by group: an index is active in the group that it lies in, or nowhere.
  shared = jnp.sum(met == next_features[None], axis=-1).astype(phi.dtype)
  # Sums are of the block's start, so this step's learning, which changes the span, leaves them.
  next_sums = sums(next_features)
  next_phi = products(span, next_sums, shared)

  overlap = features.size, shared[t]
  learned, changes = learn(
    ac, fns.distribution, carry, t, sample[0], timestep, phi, next_phi, overlap
  )
  transition = ~timestep.first[0]
  # Under the names of `AcLambda.step`'s metrics, so that a failure has the same number as there.
  failure = first_failure(dict(zip(METRICS, changes, strict=True)), not_finite(timestep))
  failure = jnp.where(transition, failure, -1)
  keep = transition & (failure < 0)
  learned = jax.tree.map(lambda new, old: jnp.where(keep, new, old), learned, carry)
  # A reset counts as an update, as in `guarded_step`: the keys of the block rely on it.
  made = (failure < 0).astype(jnp.int32)
  learner = run.learner._replace(step=run.learner.step + made, failure=failure)
  run, ends = count(run, timestep)
  run = run._replace(learner=learner, env=env_state, timestep=timestep)
  span = learned.span._replace(met=met, sums=next_sums, shared=shared)
  return learned._replace(run=run, span=span), ends


def learn(
  ac: Settings,
  distribution: Distribution,
  carry: Carry,
  t: Array,
  sample: Array,
  timestep: TimeStep,
  phi: Array,
  next_phi: Array,
  overlap: tuple[int, Array],
) -> tuple[Carry, Array]:
  """Makes one update of AC(lambda) and its tuner (Algorithm 1 of Metatrace, lines 5 to 15).

  Args:
    ac: the meta-optimiser; its tuner is a `ScalarTuner`.
    distribution: of the policy.
    carry: before it.
    t: which step of the block, [] int32.
    sample: the action, [...].
    timestep: that it led to, [1, ...].
    phi: (w, z, h) phi_t, [3, 1 + A].
    next_phi: (w, z, h) phi_{t + 1}, [3, 1 + A].
    overlap: phi_t' phi_t and phi_{t + 1}' phi_t, [] each.

  Returns:
    The new span, rule and products; and [2]: delta, and what is added to w and h together for each
    number of the trace, which is not finite if either is.
  """
  phi_w, phi_z, phi_h = phi
  next_w, next_z, next_h = next_phi
  policy, one, none = phi_w[1:], jnp.ones_like(phi_w[:1]), jnp.zeros_like(phi_w[:1])
  before = carry.run.timestep
  running = continues(before.first, before.discount)[0].astype(policy.dtype)
  discount = ac.gamma * timestep.discount[0].astype(policy.dtype)
  decay = ac.gamma * ac.lambda_ * running
  reward = clipped(timestep.reward[0], ac.max_abs_reward)
  delta = reward + discount * next_w[0] - phi_w[0]
  # The gradients of U (line 6) and of the entropy are these, times phi_t.
  grad_u = jnp.concatenate([one, jax.grad(distribution.log_prob)(policy, sample) / 2])
  bonus = jnp.concatenate([none, entropy_gradient(ac.entropy, distribution, policy)])

  # z <- decay z + grad_u phi', so every product of z with itself, h and phi follows from those of
  # before: |a x + b|^2 = a^2 |x|^2 + 2 a <x, b> + |b|^2, and <b, x> = grad_u' (x phi).
  u_u = overlap[0] * jnp.vdot(grad_u, grad_u)
  z_z = decay**2 * carry.z_z + 2 * decay * jnp.vdot(grad_u, phi_z) + u_u
  z_h = decay * carry.z_h + jnp.vdot(grad_u, phi_h)
  phi_z = decay * phi_z + overlap[0] * grad_u  # of the new trace, from here on
  next_z = decay * next_z + overlap[1] * grad_u
  dots = Dots(
    delta=delta,
    decay=decay,
    u_h=jnp.vdot(grad_u, phi_h),
    bonus_h=jnp.vdot(bonus, phi_h),
    trace_h=z_h,
    trace_delta=discount * next_z[0] - phi_z[0],  # delta depends on the value's row alone
    u_u=u_u,
  )
  assert isinstance(ac.tuner, ScalarTuner)
  adapted = ac.tuner.adapt(carry.rule, dots)
  rule, alpha = checks.tuner(checks.who(ac.tuner), adapted, carry.rule, delta)

  along_w = alpha * delta  # w and h change by so much of the trace
  along_h = alpha * (delta + discount * next_h[0] - phi_h[0])  # line 14
  span, hot = carry.span, (jnp.arange(STEPS) == t)[None]
  q_w, q_z, q_h = span.coefficients
  s_w, s_z, s_h = span.scale
  # The trace of this step first, then w and h along it: the span's form of line 5 and line 14.
  q_z = decay * q_z + jnp.where(hot, grad_u[:, None], 0)
  s_z = decay * s_z
  own = jnp.where(hot, (alpha * bonus)[:, None], 0)
  span = span._replace(
    coefficients=jnp.stack([q_w + along_w * q_z + own, q_z, q_h + along_h * q_z + own]),
    scale=jnp.stack([s_w + along_w * s_z, s_z, s_h + along_h * s_z]),
  )
  z_h += along_h * z_z + alpha * jnp.vdot(bonus, phi_z)  # <z | h> with the new h
  changes = jnp.stack([delta, along_w + along_h])
  return Carry(carry.run, span, rule, z_z, z_h), changes


def written_out(span: Span, start: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
  """Returns w, z and h, [1 + A, F] each, after the block.

  Args:
    span: at its end.
    start: w_0, z_0 and h_0, [1 + A, F] each.
  """
  w_0, z_0, h_0 = start
  k = span.met.shape[1]
  # Group by group, [T, K, 1] against [1, K, F / K]: feature f lies in group f // (F / K).
  tile = jnp.arange(w_0.shape[1], dtype=span.met.dtype).reshape(1, k, -1)
  phi = (span.met[:, :, None] == tile).astype(w_0.dtype).reshape(STEPS, -1)
  # HIGHEST: TF32 would round w, z and h, where the same steps made one by one do not.
  w, z, h = jnp.einsum("vot,tf->vof", span.coefficients, phi, precision=jax.lax.Precision.HIGHEST)
  s_w, s_z, s_h = span.scale
  return w_0 + s_w * z_0 + w, s_z * z_0 + z, h_0 + s_h * z_0 + h

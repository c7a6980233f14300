"""Self-tuning by metagradients (Xu et al. 2018; Algorithm 2 of the STAC paper), and its family."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ...core.api import (
  AgentFns,
  Array,
  Count,
  Cycle,
  Decay,
  LearnerState,
  Metrics,
  Natural,
  NotNegative,
  Optimizer,
  Positive,
  PyTree,
  Trajectory,
  register,
  tunables,
)
from . import _eta
from ._batches import drawn, held_out
from ._chain import Etas, Update, derivative, inner_update
from ._context import Context, Contextual
from ._cycle import cycle
from ._judge import Bootstrap, matching_gradient, outer_gradient
from ._update import inner_gradient

OuterBatch = Literal["same", "next", "fresh", "held_out", "replayed"]


class MetaState(NamedTuple):
  """The metaparameters and all that is kept to tune them."""

  etas: Etas  # unconstrained, [P] (optimiser tunables: [1]); with a context, what it adds to
  opt_state: PyTree  # of the optimiser of the metaparameters
  window: tuple[Update, ...] = ()  # updates that are yet to be judged; before the first, zeros
  replay: tuple[Trajectory, ...] = ()  # the last batches, newest first
  last: Metrics | tuple[()] = ()  # what phases log that do not compute it anew
  context: Any = ()  # Contextual, where there is one


@register("metaopt", "metagradient")
@dataclasses.dataclass(frozen=True)
class Metagradient:
  """Metagradients through K whole optimiser steps: STAC, STACX, Xu et al. 2018, BMG and others.

      theta_{k+1} = OPT(theta_k, g(theta_k, eta)), k < K;  eta <- Adam(eta, grad L_outer(theta_K))

  What the outer loss is, `objective.outer` says: its terms, its corrector, an outer critic.

  Attributes:
    tune: patterns over `component.field`; () tunes nothing and equals `fixed` to the bit.
    learning_rate: of Adam on eta; b1, b2, eps likewise.
    optimizer: of eta in place of Adam; it is told no progress, so its rate stays as it begins.
    eta_init: initial eta where a sigmoid maps it (4.6: sigmoid = 0.99); elsewhere the first value
      is the configured one.
    eta_init_of: initial eta of any tuned number, by pattern, where it is to differ.
    inner_updates: K.
    outer_batch: what the outer loss is taken on. `same`: the batch of the last inner update
      (Algorithm 2). `next`: the batch after it, which is then learned from too (Xu et al. 2018);
      where actors do not lag behind, theta_K has acted in it. `fresh`: likewise, but it serves the
      outer loss alone, at the cost of every K+1st batch. `held_out`: a part of each batch, which
      the inner loss does not see. `replayed`: the whole batch, while inner updates are made on
      batches drawn from the last ones. In `next` nothing has been judged before update K: outer
      loss and metagradient are logged as 0 until then.
    held_out: one in so many trajectories of each batch is held out.
    replay: how many of the last batches are drawn from.
    bootstrap: `@bootstrap()` matches a target in place of the outer loss (BMG).
    context: `@context()` makes eta follow from recent statistics.
    max_norm: a metagradient of a greater norm is scaled down to this.
    bounds: least and greatest value of any tuned number, by pattern, as plugins see it; from the
      first eta on. Not with a context.
    start_after: metaparameters stay as they are for so many updates.
    anchor: weight of 1/2 (eta - initial eta)^2 in what eta minimises.
  """

  tune: tuple[str, ...] = ()
  learning_rate: NotNegative = 1e-3
  b1: Decay = 0.9
  b2: Decay = 0.999
  eps: Positive = 1e-4
  optimizer: Optimizer | None = None
  eta_init: float = 4.6
  eta_init_of: Mapping[str, float] = dataclasses.field(default_factory=dict)
  inner_updates: Count = 1
  outer_batch: OuterBatch = "same"
  held_out: Count = 2
  replay: Count = 8
  bootstrap: Bootstrap | None = None
  context: Context | None = None
  max_norm: Positive | None = None
  bounds: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
  start_after: Natural = 0
  anchor: NotNegative = 0.0

  def __post_init__(self):
    if self.bounds and self.context is not None:
      # Eta is then what a context adds to: a projection of it bounds no value that plugins see.
      raise ValueError(
        "bounds are not kept by what a context adds: write bounds = {}, or no context"
      )

  @property
  def phases(self) -> int:
    """The batches of a cycle: K, and one more where a batch serves the outer loss alone."""
    if not self.tune:
      return 1
    return self.inner_updates + (self.outer_batch == "fresh")

  def check(self, components: tunables.Components) -> None:
    """Checks the patterns of `tune`, `eta_init_of` and `bounds` against the agent's plugins.

    Raises:
      ValueError: a pattern matches nothing, or nothing lies within two bounds.
    """
    tuned = self._tuned(components)
    _eta.starts(tuned, self.eta_init_of)
    _eta.check_bounds(tuned, self.bounds)

  def init(self, fns: AgentFns, state: LearnerState, batch: Trajectory) -> MetaState:
    """Returns the meta state before the first update; `batch` gives shapes, [T+1, B].

    Raises:
      ValueError: a batch has too few trajectories to hold some out.
    """
    tuned = self._tuned(fns.components)
    if not tuned:
      return MetaState({}, ())
    etas = self._first(fns, tuned)
    context, recent = (), ()
    if self.context is not None:
      weights = self.context.init(state.key, {name: fns.tunable_shapes[name] for name in etas})
      recent = jnp.zeros(self.context.size)
      context = Contextual(weights, recent)
    meta = MetaState(etas, (), context=context)
    # Zeros in the shapes of batches: the state's structure may not change at the first update.
    empty = lambda like: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
    inner, _ = self._split(batch)
    grads = jax.tree.map(jnp.zeros_like, state.params)
    update = Update(state.params, state.opt_state, grads, empty(inner), etas, recent)
    # The last update of a cycle is judged as it is made, unless a later batch judges all of them.
    kept = self.inner_updates - (self.outer_batch not in ("next", "fresh"))
    return meta._replace(
      opt_state=self._init_optimizer(self._learned(meta)),
      window=(update,) * kept,
      replay=(empty(batch),) * (self.replay * (self.outer_batch == "replayed")),
      last=self._no_metrics(fns, state, meta, batch) if self.phases > 1 else (),
    )

  def step(
    self, fns: AgentFns, state: LearnerState, batch: Trajectory, phase: int = 0
  ) -> tuple[LearnerState, Metrics]:
    """Updates theta and eta on a batch [T+1, B] (Algorithm 2, lines 10 to 15); metrics are []."""
    tuned = self._tuned(fns.components)
    if not tuned:
      # Nothing is tuned: the same operations as `fixed`, so that the two agree to the bit.
      grads, metrics, _ = inner_gradient(fns, state.params, {}, batch)
      params, opt_state = fns.optimizer_step(state.params, grads, state.opt_state, state.step, {})
      metrics["grad_norm"] = optax.tree.norm(grads)
      return state._replace(params=params, opt_state=opt_state), metrics
    meta: MetaState = state.meta_state
    # What this phase does not compute is logged as it was last: all phases log the same names.
    metrics = dict(meta.last)
    # The judge comes before the update, so that this batch is learned from with the eta it leaves.
    judged_later = self.outer_batch in ("next", "fresh")
    if judged_later and phase == (self.inner_updates if self.outer_batch == "fresh" else 0):
      # theta_K has acted by now, unless actors lag: this batch judges what led to it.
      reference = self._reference(fns, tuned, meta.window[-1], batch)
      meta, judged = self._judge(fns, tuned, state, meta, meta.window, batch, reference)
      metrics |= judged
    if phase < self.inner_updates:
      state, meta, update, reference, learned = self._learn(fns, tuned, state, meta, batch)
      metrics |= learned
      if judged_later or phase < self.inner_updates - 1:
        window = (*meta.window[:phase], update, *meta.window[phase + 1 :])
        meta = meta._replace(window=window)
      else:
        # The last update of a cycle, which is judged by its own batch, or by what was kept from it.
        _, outer = self._split(batch)
        # 'same' has the reference already: the inner gradient's forward pass was on the same batch.
        if self.outer_batch != "same":
          reference = self._reference(fns, tuned, update, outer)
        # Core counts this update when the step is over; the judge wants the count by theta_K.
        after = state._replace(step=state.step + 1)
        updates = (*meta.window, update)
        meta, judged = self._judge(fns, tuned, after, meta, updates, outer, reference)
        metrics |= judged
    metrics |= self._values_logged(fns, meta)
    if meta.last:
      meta = meta._replace(last=metrics)
    return state._replace(meta_state=meta), metrics

  def values(self, fns: AgentFns, meta_state: MetaState) -> dict[str, Array]:
    """Returns zeta(eta) by name (line 10): [P], or [1] of the optimiser's tunables."""
    return tunables.transform(self._etas(meta_state), self._tuned(fns.components))

  def tuned(self, components: tunables.Components) -> tuple[str, ...]:
    """Returns the names of what is tuned of these components."""
    return tuple(self._tuned(components))

  def cycle(
    self, fns: AgentFns, states: Sequence[LearnerState], batches: Sequence[Trajectory]
  ) -> Cycle | None:
    """Says what the cycle is made of that begins with the first of these batches, [T+1, B] each."""
    return cycle(self, fns, states, batches)

  def _learn(self, fns, tuned, state, meta, batch):
    """Makes one inner update.

    Returns:
      The state with theta', the meta state, the update, the policies before it on its batch, and
      metrics [].
    """
    recent = ()
    if self.context is not None:
      # Before the update: the statistics that eta follows from are known when it is made.
      gamma = fns.gamma(self.values(fns, meta))
      recent = self.context.seen(fns, state.params, gamma, meta.context.recent, batch)
      meta = meta._replace(context=meta.context._replace(recent=recent))
    inner, _ = self._split(batch)
    if self.outer_batch == "replayed":
      inner = drawn(state, meta.replay, batch)
      meta = meta._replace(replay=(batch, *meta.replay[:-1]))
    updated = inner_update(
      fns, tuned, state.params, state.opt_state, state.step, self._etas(meta), inner, recent
    )
    metrics = updated.metrics | {"grad_norm": optax.tree.norm(updated.update.grads)}
    state = state._replace(params=updated.params, opt_state=updated.opt_state)
    return state, meta, updated.update, updated.reference, metrics

  def _judge(self, fns, tuned, state, meta, updates, batch, reference):
    """Moves the metaparameters by what updates have done to the outer loss (lines 13 to 15).

    Args:
      fns: the agent.
      tuned: what is tuned, by name.
      state: theta_K, its opt_state, and the number of updates by then.
      meta: the meta state.
      updates: K of them.
      batch: that judges, [T+1, B].
      reference: policies before the last update on it, [K, Po, T, B/K, A].

    Returns:
      The new meta state, and metrics [].
    """
    etas = updates[-1].etas
    if self.bootstrap is None:
      gamma = fns.gamma(tunables.transform(etas, tuned))
      v, metrics = outer_gradient(fns, state.params, gamma, batch, reference)
    else:
      at = (state.params, state.opt_state, state.step, etas)
      v, metrics = matching_gradient(fns, tuned, self.bootstrap, *at, batch, reference)
    of_updates = derivative(fns, tuned, updates, state.step - len(updates), v)
    # K updates share one eta (with a context, one eta_0), so their derivatives add up.
    gradient = jax.tree.map(lambda *x: sum(x[1:], x[0]), *of_updates)
    # Before the first updates there is nothing to judge: the window holds zeros.
    begun = state.step >= len(updates)
    gradient, metrics = jax.tree.map(lambda x: jnp.where(begun, x, 0), (gradient, metrics))
    learned_gradient: PyTree = gradient
    if self.context is not None:
      learned_gradient = gradient, self._context_gradient(meta, updates, of_updates, begun)
    norm = optax.tree.norm(learned_gradient)
    # One that is not finite would spoil the losses below too, and so hide that it was the first.
    keep = begun & jnp.isfinite(norm) & (state.step > self.start_after)
    moved = self._moved(tuned, meta, self._guarded(fns, tuned, meta, learned_gradient, norm))
    meta = jax.tree.map(lambda new, old: jnp.where(keep, new, old), moved, meta)
    return meta, metrics | _eta.by_head("metagrad", gradient) | {"metagrad_norm": norm}

  def _context_gradient(self, meta, updates, of_updates, begun):
    """Returns the derivative by the weights of the context, through eta of every update."""
    context = self.context
    assert context is not None

    # eta_0 is a constant here: it has the derivative that `of_updates` sum to.
    def etas(weights):
      return [context.applied(weights, update.recent, meta.etas) for update in updates]

    _, pull_back = jax.vjp(etas, meta.context.weights)
    (gradient,) = pull_back(of_updates)
    return jax.tree.map(lambda x: jnp.where(begun, x, 0), gradient)

  def _guarded(self, fns, tuned, meta, gradient, norm):
    """Returns the metagradient scaled down to `max_norm`, with the pull of the anchor."""
    if self.max_norm is not None:
      # The divisor is never 0, so that a metagradient of 0 stays 0 and does not become NaN.
      scale = self.max_norm / jnp.maximum(norm, self.max_norm)
      gradient = jax.tree.map(lambda x: scale * x, gradient)
    if isinstance(self.anchor, float | int) and not self.anchor:  # that of a run may be traced
      return gradient
    first = self._first(fns, tuned)
    # The anchor is not part of the norm that is bounded: it pulls however large the metagradient.
    pull = {name: self.anchor * (eta - first[name]) for name, eta in meta.etas.items()}
    if self.context is None:
      return jax.tree.map(jnp.add, gradient, pull)
    of_etas, of_weights = gradient
    return jax.tree.map(jnp.add, of_etas, pull), of_weights

  def _moved(self, tuned, meta: MetaState, gradient: PyTree) -> MetaState:
    """Moves what is learned along a gradient (Algorithm 2, line 15), within the bounds."""
    learned = self._learned(meta)
    if self.optimizer is None:
      updates, opt_state = self._adam().update(gradient, meta.opt_state)
      learned = optax.apply_updates(learned, updates)
    else:
      # Progress 0 for good: the rate of eta does not decay as training goes on.
      start = jnp.zeros(())
      learned, opt_state = self.optimizer.update(gradient, meta.opt_state, learned, start)
    moved: Any = learned
    if self.context is None:
      meta = meta._replace(etas=moved)
    else:
      meta = meta._replace(etas=moved[0], context=meta.context._replace(weights=moved[1]))
    # Bounds are no part of the optimiser: each step of it is followed by a projection.
    return meta._replace(etas=_eta.within(meta.etas, tuned, self.bounds), opt_state=opt_state)

  def _etas(self, meta: MetaState) -> Etas:
    """Returns eta by name as updates use it."""
    if self.context is None or not meta.etas:  # none: nothing is tuned, and there are no weights
      return meta.etas
    return self.context.applied(meta.context.weights, meta.context.recent, meta.etas)

  def _learned(self, meta: MetaState) -> PyTree:
    """Returns what the optimiser of the metaparameters moves: eta, and a context's weights."""
    return meta.etas if self.context is None else (meta.etas, meta.context.weights)

  def _reference(self, fns, tuned, update: Update, batch: Trajectory) -> Array:
    """Returns the policies before an update on a batch, [K, Po, T, B/K, A], to which a KL is."""
    gamma = fns.gamma(tunables.transform(update.etas, tuned))
    policies = lambda t: fns.outer_heads(update.params, gamma, t).policy[:, :-1]
    return fns.accumulate(lambda t: ((), (), policies(t)), batch)[2]

  def _values_logged(self, fns: AgentFns, meta: MetaState) -> Metrics:
    """Returns what is tuned, [] each, by head; `eta/...` is unconstrained, `tuned/...` is not."""
    return _eta.by_head("tuned", self.values(fns, meta)) | _eta.by_head("eta", self._etas(meta))

  def _no_metrics(self, fns, state: LearnerState, meta: MetaState, batch: Trajectory) -> Metrics:
    """Returns zeros by the names of all metrics: what phases log before any has computed them."""
    values = self.values(fns, meta)
    inner, outer = self._split(batch)
    # Names and shapes come from tracing: no loss is computed here.
    _, (heads, _) = jax.eval_shape(fns.inner_loss, state.params, values, inner)
    gamma = fns.gamma(values)
    policies = lambda *x: fns.outer_heads(*x).policy[:, :-1]
    reference = jax.eval_shape(policies, state.params, gamma, outer)
    _, of_outer = jax.eval_shape(fns.outer_loss, state.params, gamma, reference, outer)
    shapes = {f"{name}/{p}": x for name, x in heads.items() for p in range(x.shape[0])} | of_outer
    metrics = {name: jnp.zeros((), x.dtype) for name, x in shapes.items()}
    if self.bootstrap is not None:
      metrics |= {f"outer_loss/match_{part}": jnp.zeros(()) for part in ("policy", "value")}
    norms = {"grad_norm": jnp.zeros(()), "metagrad_norm": jnp.zeros(())}
    of_each = jax.tree.map(jnp.zeros_like, _eta.by_head("metagrad", meta.etas))
    return metrics | norms | of_each | self._values_logged(fns, meta)

  def _split(self, batch: Trajectory) -> tuple[Trajectory, Trajectory]:
    """Returns what an inner update and an outer loss see of a batch, [T+1, B'] each."""
    return held_out(batch, self.held_out) if self.outer_batch == "held_out" else (batch, batch)

  def _tuned(self, components: tunables.Components) -> dict[str, tunables.Tunable]:
    return tunables.select(tunables.collect(components), self.tune)

  def _first(self, fns: AgentFns, tuned: Mapping[str, tunables.Tunable]) -> Etas:
    return _eta.first(fns, tuned, self.eta_init, self.eta_init_of, self.bounds)

  def _init_optimizer(self, learned: PyTree) -> PyTree:
    return self._adam().init(learned) if self.optimizer is None else self.optimizer.init(learned)

  def _adam(self) -> optax.GradientTransformation:
    return optax.adam(self.learning_rate, self.b1, self.b2, self.eps)

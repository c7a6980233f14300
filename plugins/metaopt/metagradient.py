"""Self-tuning by metagradients (Xu et al. 2018; Algorithm 2 of the STAC paper)."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ...core.api import (
  AgentFns,
  Array,
  Decay,
  LearnerState,
  LossTerm,
  Metrics,
  NotNegative,
  Positive,
  PyTree,
  Trajectory,
  name_of,
  register,
  tunables,
)
from ._update import inner_gradient


class Previous(NamedTuple):
  """The last update, kept when the outer loss is taken on the next batch."""

  params: PyTree
  opt_state: PyTree
  batch: Trajectory


class MetaState(NamedTuple):
  """The metaparameters and their optimiser's state."""

  etas: dict[str, Array]  # unconstrained, [P] (optimiser tunables: [1])
  opt_state: PyTree
  previous: Previous | tuple[()]


@register("metaopt", "metagradient")
@dataclasses.dataclass(frozen=True)
class Metagradient:
  """Metagradients through the whole optimiser step: STAC, STACX, Xu et al. 2018.

      theta'(eta) = OPT(theta, g(eta));  eta <- Adam(eta, grad_eta L_outer(theta'(eta)))

  Attributes:
    tune: patterns over `component.field`; () tunes nothing and equals `fixed` to the bit.
    learning_rate: of Adam on eta; b1, b2, eps likewise.
    eta_init: initial eta where a sigmoid maps it (4.6: sigmoid = 0.99); elsewhere the first value
      is the configured one.
    eta_init_of: initial eta of any tuned number, by pattern, where it is to differ.
    outer_losses: terms that only the outer loss has, or in place of one of objective.losses.
    outer_batch: the outer loss is taken on the `same` batch as the update (Algorithm 2), or on the
      `next` one (Xu et al. 2018), at the cost of one more gradient. The first update then has none
      before it to judge: its outer loss and metagradient are logged as 0.
  """

  tune: tuple[str, ...] = ()
  learning_rate: NotNegative = 1e-3
  b1: Decay = 0.9
  b2: Decay = 0.999
  eps: Positive = 1e-4
  eta_init: float = 4.6
  eta_init_of: Mapping[str, float] = dataclasses.field(default_factory=dict)
  outer_losses: tuple[LossTerm, ...] = ()
  outer_batch: Literal["same", "next"] = "same"

  def check(self, components: tunables.Components) -> None:
    """Checks the patterns of `tune` and `eta_init_of` against the agent's plugins.

    Raises:
      ValueError: a pattern matches nothing, or a term is twice in `outer_losses`.
    """
    self._starts_given(self._tuned(components))
    names = [name_of(term) for term in self.outer_losses]
    if len(set(names)) < len(names):
      raise ValueError(f"outer_losses holds one twice: {', '.join(names)}.")

  def init(self, fns: AgentFns, state: LearnerState, batch: Trajectory) -> MetaState:
    """Returns the meta state before the first update; `batch` gives shapes, [T+1, B]."""
    tuned = self._tuned(fns.components)
    start = {name: t.domain.initial(self.eta_init, t.value) for name, t in tuned.items()}
    start |= self._starts_given(tuned)
    etas: dict[str, Array] = {
      name: jnp.full(fns.tunable_shapes[name], eta, float) for name, eta in start.items()
    }
    previous: Previous | tuple[()] = ()
    if self.outer_batch == "next" and tuned:
      # Zeros in the shapes of a batch: the state's structure may not change at the first update.
      empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), batch)
      previous = Previous(state.params, state.opt_state, empty)
    return MetaState(etas, self._adam().init(etas), previous)

  def step(
    self, fns: AgentFns, state: LearnerState, batch: Trajectory
  ) -> tuple[LearnerState, Metrics]:
    """Updates theta and eta on a batch [T+1, B] (Algorithm 2, lines 10 to 15); metrics are []."""
    if isinstance(state.meta_state.previous, Previous):
      return self._step_next(fns, state, batch)
    values = self.values(fns, state.meta_state)
    grads, metrics, reference = inner_gradient(fns, state.params, values, batch)
    metrics["grad_norm"] = optax.tree.norm(grads)
    if not values:
      # Nothing is tuned: the same operations as `fixed`, so that the two agree to the bit.
      params, opt_state = fns.optimizer_step(state.params, grads, state.opt_state, state.step, {})
      return state._replace(params=params, opt_state=opt_state), metrics
    gradient, params, opt_state, outer = self._metagradient(
      fns, state, grads, batch, batch, reference
    )
    meta_state = self._tuned_by(gradient, state.meta_state)
    return (
      state._replace(params=params, opt_state=opt_state, meta_state=meta_state),
      metrics | outer | self._metrics(fns, gradient, meta_state.etas),
    )

  def values(self, fns: AgentFns, meta_state: MetaState) -> dict[str, Array]:
    """Returns zeta(eta) by name (line 10): [P], or [1] of the optimiser's tunables."""
    return tunables.transform(meta_state.etas, self._tuned(fns.components))

  def _step_next(self, fns, state, batch):
    """Tunes eta by what the previous update did to the loss on this batch, then updates theta.

    Args and returned values are those of `step`.
    """
    old, previous = state.meta_state, state.meta_state.previous
    # The previous update is made again, from where it began and at the learning rate it had then:
    # the derivatives of an update do not outlive the call that made it.
    before = state._replace(
      params=previous.params, opt_state=previous.opt_state, step=state.step - 1
    )
    values = self.values(fns, old)
    grads, _, _ = inner_gradient(fns, before.params, values, previous.batch)
    # The KL of the outer loss is to the policies before that update, on the batch that judges it.
    reference = fns.accumulate(
      lambda t: ((), (), fns.inner_loss(before.params, values, t)[1][1]), batch
    )[2]
    gradient, _, _, outer = self._metagradient(fns, before, grads, previous.batch, batch, reference)
    # Before the first update there is nothing to learn from: its batch is empty.
    begun = state.step > 0
    gradient, outer = jax.tree.map(lambda x: jnp.where(begun, x, 0), (gradient, outer))
    # A metagradient that is not finite would spoil the losses below too, and so hide that it was
    # the first.
    keep = begun & jnp.isfinite(optax.tree.norm(gradient))
    tuned = self._tuned_by(gradient, old)
    tuned = jax.tree.map(lambda new, old: jnp.where(keep, new, old), tuned, old)

    values = self.values(fns, tuned)
    grads, metrics, _ = inner_gradient(fns, state.params, values, batch)
    metrics["grad_norm"] = optax.tree.norm(grads)
    params, opt_state = fns.optimizer_step(state.params, grads, state.opt_state, state.step, values)
    meta_state = tuned._replace(previous=Previous(state.params, state.opt_state, batch))
    return (
      state._replace(params=params, opt_state=opt_state, meta_state=meta_state),
      metrics | outer | self._metrics(fns, gradient, tuned.etas),
    )

  def _metagradient(self, fns, state, grads, inner_batch, outer_batch, reference):
    """Computes grad_eta L_outer(OPT(theta, g(theta, eta))), without differentiating a gradient.

    theta' depends on eta directly and through g, so with v = grad_theta' L_outer, and with
    w = (d OPT / d g)' v, which is v pulled back through OPT to the gradient g,

        grad_eta = (d OPT / d eta)' v + (d g / d eta)' w
                 = (d OPT / d eta)' v + grad_eta < grad_theta L_inner(theta, eta), w >

    and the last bracket is the derivative of L_inner along w: one forward-mode pass, whose
    derivative by eta enters the network only where the discount is embedded in it. In all 8/3 of
    the cost of the inner gradient, and every pass runs over micro-batches and devices on its own.

    Args:
      fns: the agent.
      state: theta, its opt_state and eta, before the update.
      grads: g(theta, eta) on the inner batch, a tree like theta.
      inner_batch: that the update is made on, [T+1, B].
      outer_batch: that the outer loss is taken on, [T+1, B].
      reference: policies before the update, [K, Po, T, B/K, A].

    Returns:
      The metagradient by name, [P] or [1]; theta', its opt_state; metrics [].
    """
    etas, tuned = state.meta_state.etas, self._tuned(fns.components)

    def optimise(grads, etas):
      # Line 12: theta'(g, eta). eta is an argument of its own, as a tuned learning rate reaches
      # theta' past g; theta and opt_state are constants.
      values = tunables.transform(etas, tuned)
      return fns.optimizer_step(state.params, grads, state.opt_state, state.step, values)

    # vjp, not grad: v is known only once theta' is. The second moment is inside, so w holds its
    # part of the derivative, (d OPT / d g)' v; opt_state is an output that nothing differentiates.
    params, pull_back, opt_state = jax.vjp(optimise, grads, etas, has_aux=True)
    gamma = fns.gamma(tunables.transform(etas, tuned))
    extra_terms = {name_of(term): term for term in self.outer_losses}

    def outer_gradient(trajectory, reference):
      grad = jax.grad(fns.outer_loss, has_aux=True)
      grads, metrics = grad(params, gamma, extra_terms, reference, trajectory)
      return grads, metrics, ()  # v, lines 13 and 14: the KL is one of the extra terms

    outer_grads, metrics, _ = fns.accumulate(outer_gradient, outer_batch, reference)
    direction, direct = pull_back(outer_grads)  # w, and (d OPT / d eta)' v

    def along_direction(etas, trajectory):
      values = tunables.transform(etas, tuned)
      loss = lambda params: fns.inner_loss(params, values, trajectory)[0]
      # < grad_theta L_inner, w >. Forward mode: what depends on eta then comes behind the network,
      # and the backward pass by eta below need not go through it.
      return jax.jvp(loss, (state.params,), (direction,))[1]

    # w is a constant of this pass, so the derivative by eta is that of the bracket's left side.
    mixed, _, _ = fns.accumulate(
      lambda trajectory: (jax.grad(along_direction)(etas, trajectory), (), ()), inner_batch
    )
    return jax.tree.map(jnp.add, direct, mixed), params, opt_state, metrics

  def _tuned_by(self, gradient: dict[str, Array], meta_state: MetaState) -> MetaState:
    """Moves eta by Adam along a metagradient by name (Algorithm 2, line 15)."""
    updates, opt_state = self._adam().update(gradient, meta_state.opt_state)
    etas: Any = optax.apply_updates(meta_state.etas, updates)
    return meta_state._replace(etas=etas, opt_state=opt_state)

  def _metrics(self, fns: AgentFns, gradient: dict[str, Array], etas: dict[str, Array]) -> Metrics:
    """Returns metrics of what is tuned, [] each, by head; `eta/...` is the value, not eta."""
    values = tunables.transform(etas, self._tuned(fns.components))
    metrics = {
      f"{kind}/{name}/{p}": x
      for kind, tree in (("metagrad", gradient), ("tuned", values), ("eta", etas))
      for name, xs in tree.items()
      for p, x in enumerate(xs)
    }
    return metrics | {"metagrad_norm": optax.tree.norm(gradient)}

  def _tuned(self, components: tunables.Components) -> dict[str, tunables.Tunable]:
    return tunables.select(tunables.collect(components), self.tune)

  def _starts_given(self, tuned: dict[str, tunables.Tunable]) -> dict[str, float]:
    """Returns the initial etas that `eta_init_of` says, by name."""
    start: dict[str, float] = {}
    for pattern, eta in self.eta_init_of.items():
      start |= dict.fromkeys(tunables.select(tuned, (pattern,), "eta_init_of"), eta)
    return start

  def _adam(self) -> optax.GradientTransformation:
    return optax.adam(self.learning_rate, self.b1, self.b2, self.eps)

"""An agent bound to an environment's spec: a composition of plugins, as pure functions."""

import copy
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ..api import checks, tunables
from ..api.contracts import MetaOptimizer, Network, TunesValues
from ..api.errors import UserError, plugin_mistakes
from ..api.registry import name_of
from ..api.types import (
  ActorParams,
  Array,
  EnvSpec,
  HeadOut,
  Metrics,
  PyTree,
  TimeStep,
  Trajectory,
)
from ..experiment import Agent, Objective, Outer
from . import critic, distributions
from .behaviour import behaviour
from .objective import critic_loss, head_loss


def whole_batch(f: Callable, batch: Trajectory, *stacked: PyTree) -> tuple[PyTree, PyTree, PyTree]:
  """Runs `AgentFns.accumulate` for a batch that is neither split nor shared among devices.

  Args:
    f: from a batch and slices to (sums, means, stacked).
    batch: [T+1, B].
    *stacked: trees [K, ...] with K = 1, of which `f` gets the first slice.

  Returns:
    What `f` does, with `stacked` as [1, ...].
  """
  sums, means, out = f(batch, *jax.tree.map(lambda x: x[0], stacked))
  return sums, means, jax.tree.map(lambda x: x[None], out)


def whole_rows(draw: Callable[[Array], PyTree], policies: Array) -> PyTree:
  """Draws for a batch that no devices share: from policies [Pa, B, A] to a tree [B, ...]."""
  return draw(policies)


class Functions:
  """The pure functions of an agent: `api.AgentFns`, and what acts, begins and publishes.

  P heads are tuned; a behaviour that needs heads beyond these has E extra ones, and an outer critic
  is C more, one for each of the Po policies that the outer loss is about.
  """

  def __init__(
    self,
    agent: Agent,
    spec: EnvSpec,
    total_updates: int = 1,
    accumulate: Callable[..., tuple[PyTree, PyTree, PyTree]] = whole_batch,
  ):
    """Builds the network.

    Args:
      agent: what is configured.
      spec: of the environment.
      total_updates: after so many the optimiser's `progress` is 1.
      accumulate: see `AgentFns`.

    Raises:
      UserError: no policy serves the action space, or the network cannot take the observations.
    """
    self.agent = agent
    self.accumulate = accumulate
    self.rows: Callable[[Callable[[Array], PyTree], Array], PyTree] = whole_rows
    self.components: Mapping[str, Any] = agent.components
    self.distribution = distributions.for_action_spec(spec.action)
    self.behaviour = behaviour(agent.behaviour, agent.heads)
    # Heads lie in this order everywhere: P tuned, E extra, C critics. A network evaluates the first
    # so many, so that whoever acts pays for none of those behind.
    self._heads = agent.heads + self.behaviour.extra_heads  # P + E
    judged = self.behaviour.outer_heads
    self._critics = judged.stop - judged.start if self._outer.critic != "none" else 0  # C
    self._total_updates = total_updates
    self.network: Network = self._network(spec)

  def _network(self, spec: EnvSpec) -> Network:
    """Builds the network of all heads, critics too, which come last."""
    owner, size = checks.who(self.agent.network), self.distribution.size

    def build(heads: int) -> Network:
      with plugin_mistakes():
        network = self.agent.network.build(spec, size, heads)
      return checks.network(owner, network, size)

    match self._outer.critic:
      case "stopped":
        return critic.stopped(build(self._heads + self._critics), self._heads, owner)
      case "own":
        return critic.apart(build(self._heads), build(self._critics), self._heads)
      case _:
        return build(self._heads + self._critics)

  @property
  def _outer(self) -> Outer:
    return Outer() if self.agent.objective is None else self.agent.objective.outer

  @property
  def metaopt(self) -> MetaOptimizer:
    """The meta-optimiser, as configured."""
    return self.agent.metaopt

  @property
  def tunable_shapes(self) -> Mapping[str, tuple[int, ...]]:
    """The shape of each tuned value by name: (P,), or (1,) of the optimiser's."""
    of_optimizer = self.agent.objective and name_of(self.agent.objective.optimizer)
    return {
      t.name: (1,) if t.component == of_optimizer else (self.agent.heads,)
      for t in tunables.collect(self.components).values()
    }

  def sharing(
    self,
    accumulate: Callable[..., tuple[PyTree, PyTree, PyTree]],
    rows: Callable[[Callable[[Array], PyTree], Array], PyTree] = whole_rows,
  ) -> "Functions":
    """Returns the same functions for a batch that is split.

    Args:
      accumulate: see `AgentFns`; over K micro-batches [T+1, B/K].
      rows: calls a function that draws for a whole batch, for the rows of this device.
    """
    # Not built anew: both have the same network.
    other = copy.copy(self)
    other.accumulate, other.rows = accumulate, rows
    return other

  def act(
    self,
    actor: ActorParams,
    timestep: TimeStep,
    core_state: PyTree,
    trajectory_key: Array,
    t: Array,
    greedy: bool = False,
  ) -> tuple[Array, Array, PyTree]:
    """Chooses the actions of a batch of environments, for one step.

    Args:
      actor: published parameters, and discounts [P + E + C], those of the heads that act first.
      timestep: [B, ...].
      core_state: [B, ...].
      trajectory_key: one for a whole trajectory; a random head stays the same through it.
      t: index of the step in the trajectory, [].
      greedy: take the mode instead of a sample.

    Returns:
      sample [B, ...], behaviour parameters [B, A], core state [B, ...].
    """
    # A random head is to last for the whole trajectory, so its key is the same at every t; that of
    # the actions is folded with t below.
    head_key, action_key = jax.random.split(trajectory_key)
    sequence = jax.tree.map(lambda x: x[None], timestep)  # T = 1: networks know sequences alone
    gamma = actor.gamma[: self.behaviour.acting_heads]
    out, core_state = self.network.unroll(actor.params, sequence, core_state, gamma)

    def draw(policies: Array) -> tuple[Array, Array]:
      mu = self.behaviour.choose(head_key, policies)
      if greedy:
        return self.distribution.mode(mu), mu
      return self.distribution.sample(jax.random.fold_in(action_key, t), mu), mu

    return *self.rows(draw, out.policy[:, 0]), core_state

  def forward(self, params: PyTree, trajectory: Trajectory, gamma: Array) -> HeadOut:
    """Evaluates the first `len(gamma)` heads on a trajectory [T+1, B].

    Args:
      params: of the network.
      trajectory: [T+1, B, ...], with the recurrent state of its first timestep.
      gamma: discounts of these heads.

    Returns:
      Policies and values, [len(gamma), T+1, B, ...].
    """
    out, _ = self.network.unroll(params, trajectory.timestep, trajectory.core_state, gamma)
    return self.behaviour.mixed(out)

  def values(self, meta_state: PyTree) -> dict[str, Array]:
    """Returns the tuned values by name, [P] or [1]; none where the meta-optimiser tunes none."""
    if not isinstance(self.metaopt, TunesValues):
      return {}
    values = self.metaopt.values(self, meta_state)
    return checks.values(checks.who(self.metaopt), values, self.tunable_shapes)

  def gamma(self, values: Mapping[str, Array]) -> Array:
    """Returns the discount of every head, [P + E + C]: tuned where it is, else configured."""
    if self.agent.objective is None:
      return jnp.zeros(self._heads)  # of no use to a network whose learner has no corrector
    corrector = self.agent.objective.corrector
    # Only the P heads have a tuned discount: extra heads and critics learn with configured ones.
    tuned = values.get(f"{name_of(corrector)}.gamma", jnp.zeros(0))
    extra = jnp.full(self._heads - len(tuned), corrector.gamma, tuned.dtype)
    critics = jnp.full(self._critics, self.agent.objective.outer_corrector.gamma, tuned.dtype)
    return jnp.concatenate([tuned, extra, critics])

  def inner_loss(
    self,
    params: PyTree,
    values: Mapping[str, Array],
    trajectory: Trajectory,
    fixed: PyTree | None = None,
  ) -> tuple[Array, tuple[Metrics, Array]]:
    """Computes (1/P) sum_p L(T, theta^p, zeta^p) (Algorithm 2, line 11 of STAC); see `AgentFns`."""
    objective, heads = self._objective(), self.agent.heads
    plugins = {name_of(p): p for p in (objective.corrector, *objective.losses)}
    # The optimiser's tuned values are [1], not one a head: `optimizer_step` binds those.
    head_values = {name: v for name, v in values.items() if name.rsplit(".", 1)[0] in plugins}
    # One pass for all heads: the torso, nearly all of the cost, is evaluated once.
    out = self.forward(params, trajectory, self.gamma(values))
    still = jax.lax.stop_gradient(out)
    if fixed is not None:
      # An embedded discount stays a constant here, as it is where all of this is stopped.
      still = self.forward(fixed, trajectory, jax.lax.stop_gradient(self.gamma(values)))

    def one_head(values, out, still):
      terms = tunables.bind(plugins, values)
      corrector = terms.pop(name_of(objective.corrector))
      mu = trajectory.behaviour  # what a KL term of the inner loss is to
      parts = (objective, self.distribution, corrector, terms, trajectory)
      return head_loss(*parts, out.policy, out.value, mu, still)

    rows = lambda tree, which: jax.tree.map(lambda x: x[which], tree)
    tuned = slice(heads)
    losses, metrics = jax.vmap(one_head, axis_size=heads)(
      head_values, rows(out, tuned), rows(still, tuned)
    )
    loss = jnp.mean(losses)
    for extra in range(heads, self._heads):
      # Only a value is learned here: it judges the mixed policy with the configured values.
      judged = rows(still, extra)
      loss += one_head({}, judged._replace(value=out.value[extra]), judged)[0] / heads  # line 11
    for c in range(self._critics):
      # A critic's own policy has no meaning: IS ratios are those of the policy that it judges.
      judged = rows(still, self.behaviour.outer_heads.start + c)
      value, of_critic = (x.value[self._heads + c] for x in (out, still))
      judged = judged._replace(value=of_critic)
      loss += critic_loss(objective, self.distribution, trajectory, value, judged) / heads
    reference = jax.lax.stop_gradient(out.policy[self.behaviour.outer_heads, :-1])
    return loss, (metrics, reference)

  def outer_heads(self, params: PyTree, gamma: Array, trajectory: Trajectory) -> HeadOut:
    """Evaluates the heads that the outer loss is about; see `AgentFns`."""
    heads = self.behaviour.outer_heads
    out = self.forward(params, trajectory, jax.lax.stop_gradient(gamma[: heads.stop]))
    return jax.tree.map(lambda x: x[heads], out)

  def outer_loss(
    self, params: PyTree, gamma: Array, reference: Array, trajectory: Trajectory
  ) -> tuple[Array, Metrics]:
    """Computes the outer loss: configured values, the acting head, outer terms (STAC, Eq. 3).

    Its advantage is stopped (line 22 of Algorithm 1) because V and the IS ratios are, and nothing
    else in it depends on theta'. Where there is an outer critic, V is the critic's. See `AgentFns`.
    """
    objective, heads = self._objective(), self.behaviour.outer_heads
    # Critics are the last heads, and a network evaluates the first so many: then it has to be all.
    last = self._heads + self._critics if self._critics else heads.stop
    out = self.forward(params, trajectory, jax.lax.stop_gradient(gamma[:last]))
    values = out.value[self._heads :] if self._critics else out.value[heads]

    def one_head(policy, value, reference):
      parts = (self.distribution, objective.outer_corrector, objective.outer_terms, trajectory)
      still = jax.lax.stop_gradient(HeadOut(policy, value))
      return head_loss(
        objective, *parts, policy, value, reference, still, objective.outer.normalise
      )

    losses, metrics = jax.vmap(one_head)(out.policy[heads], values, reference)
    kept: Metrics = {
      f"outer_{name}": jnp.mean(x) for name, x in metrics.items() if name.startswith("loss/")
    }
    return jnp.mean(losses), kept

  def init_optimizer(self, params: PyTree) -> PyTree:
    """Returns the state of the optimiser for a tree of arrays [...]; () where there is none."""
    if self.agent.objective is None:
      return ()
    optimizer = self.agent.objective.optimizer
    return checks.arrays(checks.who(optimizer), "its first state", optimizer.init(params))

  def optimizer_step(
    self,
    params: PyTree,
    grads: PyTree,
    opt_state: PyTree,
    step: Array,
    values: Mapping[str, Array],
  ) -> tuple[PyTree, PyTree]:
    """Takes one step of the optimiser, with its tuned values; see `AgentFns`."""
    name = name_of(self._objective().optimizer)
    # [1] -> []: all heads share one set of parameters, and so one step of the optimiser.
    own = {key: v[0] for key, v in values.items() if key.rsplit(".", 1)[0] == name}
    optimizer = tunables.bind({name: self._objective().optimizer}, own)[name]
    progress = jnp.minimum(step / self._total_updates, 1.0)
    updated = optimizer.update(grads, opt_state, params, progress)
    return checks.optimizer(checks.who(optimizer), updated, params, opt_state)

  def _objective(self) -> Objective:
    if self.agent.objective is None:
      raise UserError(
        f"agent.metaopt = @{name_of(self.metaopt)}() learns from a loss: write "
        "agent.objective = @objective(), and bind its corrector, losses and optimizer."
      )
    return self.agent.objective


# `fns` is static, and equal to itself alone: each `Functions` object has a program of its own.
@functools.partial(jax.jit, static_argnums=0, static_argnames="greedy")
def act(
  fns: Functions,
  actor: ActorParams,
  timestep: TimeStep,
  core_state: PyTree,
  trajectory_key: Array,
  t: Array,
  greedy: bool = False,
) -> tuple[Array, Array, Array, PyTree]:
  """Acts as `Functions.act`, for whoever steps environments on the host; compiled once for all.

  Returns:
    What the environments are sent, [B, ...], and then what `Functions.act` returns.
  """
  sample, mu, core_state = fns.act(actor, timestep, core_state, trajectory_key, t, greedy)
  return fns.distribution.to_action(sample), sample, mu, core_state

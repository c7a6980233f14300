"""The agent: a composition of plugins, turned into pure functions."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from . import checks, distributions, objective, tunables
from .behaviour import BehaviourName, behaviour
from .errors import UserError, plugin_mistakes
from .interfaces import (
  AgentFns,
  Corrector,
  LossTerm,
  MetaOptimizer,
  Network,
  NetworkPlugin,
  Optimizer,
)
from .ranges import Count, Positive
from .registry import configurable, name_of
from .types import ActorParams, Array, EnvSpec, PyTree, TimeStep


@configurable("agent")
@dataclasses.dataclass(frozen=True)
class Agent:
  """An actor-critic agent with P heads on one torso.

  Attributes:
    network: torso and heads.
    metaopt: owns the update: `fixed` (IMPALA), `metagradient` (STAC, STACX), or `ac_lambda`
      (Metatrace).
    corrector: turns values and IS ratios into targets; None where the update minimises no loss, as
      that of `ac_lambda`.
    losses: the terms of the inner loss; the outer loss has the same at their configured values.
    optimizer: of the network's parameters; None where there is no corrector.
    heads: P; every head has its own policy, value and metaparameters.
    behaviour: who acts: the first head, a random one, or the average of all.
    max_abs_reward: rewards are clipped to this for learning; None leaves them raw.
    max_log_is: cap on log IS ratios; leaky V-trace and importance sampling leave them unbounded.
      Their products along a trace are bounded by 1e6, which no ordinary ratios come near.
  """

  network: NetworkPlugin
  metaopt: MetaOptimizer
  corrector: Corrector | None = None
  losses: tuple[LossTerm, ...] = ()
  optimizer: Optimizer | None = None
  heads: Count = 1
  behaviour: BehaviourName = "first"
  max_abs_reward: Positive | None = None
  max_log_is: Positive = 5.0

  def __post_init__(self):
    if {self.corrector is None, self.optimizer is None, not self.losses} == {True, False}:
      raise ValueError(
        "agent.corrector, agent.losses and agent.optimizer belong together: give all, or none."
      )
    if self.corrector is None and self.max_abs_reward is not None:
      raise ValueError(
        "agent.max_abs_reward is of the losses, and this agent has none; if its metaopt clips "
        "rewards, bind that: ac_lambda.max_abs_reward."
      )
    names = [name_of(plugin) for plugin in self.losses]
    for name in names:
      if names.count(name) > 1:
        raise ValueError(f"agent.losses holds '{name}' twice; a term may appear once.")
    self.metaopt.check(self.components)

  @property
  def components(self) -> dict[str, Any]:
    """The plugins whose tunables a meta-optimiser may tune, by registered name."""
    return {name_of(p): p for p in (self.corrector, *self.losses, self.optimizer) if p is not None}


class BuiltAgent:
  """An agent bound to an environment's spec: network, acting and loss functions."""

  def __init__(self, agent: Agent, spec: EnvSpec):
    """Builds the network.

    Raises:
      UserError: no policy serves the action space, or the network cannot take the observations.
    """
    self.agent = agent
    self.distribution = distributions.for_action_spec(spec.action)
    self.behaviour = behaviour(agent.behaviour, agent.heads)
    with plugin_mistakes():
      network = agent.network.build(
        spec, self.distribution.size, agent.heads + self.behaviour.extra_heads
      )
    self.network: Network = checks.network(
      checks.who(agent.network), network, self.distribution.size
    )
    self.objective = agent.corrector and objective.Objective(
      network=self.network,
      distribution=self.distribution,
      behaviour=self.behaviour,
      corrector_name=name_of(agent.corrector),
      corrector=agent.corrector,
      terms={name_of(term): term for term in agent.losses},
      heads=agent.heads,
      max_abs_reward=agent.max_abs_reward,
      max_log_is=agent.max_log_is,
    )

  def fns(self, total_updates: int, accumulate: Callable) -> AgentFns:
    """What the meta-optimiser gets; `accumulate` comes from the learner."""
    components = self.agent.components
    if self.objective is None or self.agent.optimizer is None:
      return self._fns_without_loss(accumulate)
    optimizer_name = name_of(self.agent.optimizer)
    own = {optimizer_name: self.agent.optimizer}

    def optimizer_step(params, grads, opt_state, step, values):
      mine = {name: v[0] for name, v in values.items() if name.rsplit(".", 1)[0] == optimizer_name}
      optimizer = tunables.bind(own, mine)[optimizer_name]
      progress = jnp.minimum(step / total_updates, 1.0)
      updated = optimizer.update(grads, opt_state, params, progress)
      return checks.optimizer(checks.who(optimizer), updated, params, opt_state)

    def partial(f):
      return lambda *args: f(self.objective, *args)

    return AgentFns(
      network=self.network,
      distribution=self.distribution,
      components=components,
      tunable_shapes={
        t.name: (1,) if t.component == optimizer_name else (self.agent.heads,)
        for t in tunables.collect(components).values()
      },
      gamma=partial(objective.head_gamma),
      inner_loss=partial(objective.inner_loss),
      outer_loss=partial(objective.outer_loss),
      optimizer_step=optimizer_step,
      accumulate=accumulate,
    )

  def _fns_without_loss(self, accumulate: Callable) -> AgentFns:
    """For meta-optimisers whose update minimises no loss."""

    def missing(*_):
      raise UserError(
        f"agent.metaopt = @{name_of(self.agent.metaopt)}() learns from a loss: give "
        "agent.corrector, agent.losses and agent.optimizer."
      )

    heads = self.agent.heads + self.behaviour.extra_heads
    return AgentFns(
      network=self.network,
      distribution=self.distribution,
      components={},
      tunable_shapes={},
      gamma=lambda values: jnp.zeros(heads),
      inner_loss=missing,
      outer_loss=missing,
      optimizer_step=missing,
      accumulate=accumulate,
    )

  def init_optimizer(self, params: PyTree) -> PyTree:
    """The state of the optimiser, if there is one."""
    optimizer = self.agent.optimizer
    if optimizer is None:
      return ()
    return checks.arrays(checks.who(optimizer), "its first state", optimizer.init(params))

  def act(
    self,
    actor: ActorParams,
    timestep: TimeStep,
    core_state: PyTree,
    trajectory_key: Array,
    t: Array,
    greedy: bool = False,
  ) -> tuple[Array, Array, PyTree]:
    """One step of a batch of environments.

    Args:
      actor: published parameters.
      timestep: [B, ...].
      core_state: [B, ...].
      trajectory_key: one for a whole trajectory; a random head stays the same through it.
      t: index of the step in the trajectory.
      greedy: take the mode instead of a sample.

    Returns:
      sample [B, ...], behaviour parameters [B, A], core state [B, ...].
    """
    head_key, action_key = jax.random.split(trajectory_key)
    sequence = jax.tree.map(lambda x: x[None], timestep)
    gamma = actor.gamma[: self.behaviour.acting_heads]
    out, core_state = self.network.unroll(actor.params, sequence, core_state, gamma)
    mu = self.behaviour.choose(head_key, out.policy[:, 0])
    if greedy:
      return self.distribution.mode(mu), mu, core_state
    sample = self.distribution.sample(jax.random.fold_in(action_key, t), mu)
    return sample, mu, core_state

"""What an agent is: its plugins, what it minimises, and what judges that."""

import dataclasses
import fnmatch
from collections.abc import Sequence
from typing import Any, Literal

from ..api.contracts import (
  ChecksComponents,
  Corrector,
  LossTerm,
  MetaOptimizer,
  NetworkPlugin,
  Optimizer,
)
from ..api.ranges import Count, NotNegative, Positive
from ..api.registry import configurable, name_of

BehaviourName = Literal["first", "random", "average"]
CriticName = Literal["none", "shared", "stopped", "own"]


@configurable("outer")
@dataclasses.dataclass(frozen=True)
class Outer:
  """How the outer loss, which self-tuning minimises, differs from the inner one.

  Without more it is the inner loss at its configured values (STAC, Eq. 3). Its values come from a
  head that learns with the *tuned* discount, which biases its advantage; an outer critic is one
  more value head that learns with the outer corrector, and serves the outer loss alone (Bonnet et
  al. 2022).

  Attributes:
    losses: terms that only the outer loss has, or in place of one of objective.losses.
    keep: of objective.losses, the outer loss has those whose names match one of these patterns.
    corrector: of the outer loss and its critic; None for objective.corrector as configured.
    critic: `none`; or where the critic's head lies: on the torso that all `shared`, on that torso
      but with its gradient `stopped` there, or on a network of its `own`.
    critic_cost: weight of the critic's squared error in the inner loss.
    normalise: the outer advantage is shifted and scaled to mean 0 and standard deviation 1 over the
      valid transitions of a batch, or of a micro-batch where there are several.
  """

  losses: tuple[LossTerm, ...] = ()
  keep: tuple[str, ...] = ("*",)
  corrector: Corrector | None = None
  critic: CriticName = "none"
  critic_cost: NotNegative = 0.25
  normalise: bool = False

  def __post_init__(self):
    _once(self.losses, "outer.losses")


@configurable("objective")
@dataclasses.dataclass(frozen=True)
class Objective:
  """The objective of an agent: its loss (Algorithm 1 of STAC), and the optimiser of that.

  Attributes:
    corrector: turns values and IS ratios into targets.
    losses: the terms of the inner loss; the outer loss has the same at their configured values.
    optimizer: of the network's parameters.
    outer: `@outer()` says in what else the outer loss differs.
    max_abs_reward: rewards are clipped to this for learning; None leaves them raw.
    max_log_is: cap on log IS ratios; leaky V-trace and importance sampling leave them unbounded.
      Their products along a trace are bounded by 1e6, which no ordinary ratios come near.
  """

  corrector: Corrector
  losses: tuple[LossTerm, ...]
  optimizer: Optimizer
  outer: Outer = dataclasses.field(default_factory=Outer)
  max_abs_reward: Positive | None = None
  max_log_is: Positive = 5.0  # e^5 = 148

  def __post_init__(self):
    _once(self.losses, "losses")
    names = [name_of(term) for term in self.losses]
    # A slip would else drop a term from the outer loss in silence.
    for pattern in self.outer.keep:
      if not fnmatch.filter(names, pattern):
        raise ValueError(
          f"outer.keep holds '{pattern}', which matches no term; there are: {', '.join(names)}."
        )

  @property
  def outer_terms(self) -> dict[str, LossTerm]:
    """The terms of the outer loss by registered name, at their configured values."""
    kept = {name_of(term): term for term in self.losses}
    kept = {
      name: term
      for name, term in kept.items()
      if any(fnmatch.fnmatchcase(name, pattern) for pattern in self.outer.keep)
    }
    # On the right: an outer term takes the place of an inner one of its name.
    return kept | {name_of(term): term for term in self.outer.losses}

  @property
  def outer_corrector(self) -> Corrector:
    """The corrector of the outer loss and its critic."""
    return self.corrector if self.outer.corrector is None else self.outer.corrector


def _once(terms: Sequence[LossTerm], setting: str) -> None:
  """Raises ValueError where two loss terms have one name."""
  # By name: tunables and metrics are named by the term, so two of a name could not be told apart.
  names = [name_of(term) for term in terms]
  for name in names:
    if names.count(name) > 1:
      raise ValueError(f"{setting} holds '{name}' twice; a term may appear once.")


@configurable("agent")
@dataclasses.dataclass(frozen=True)
class Agent:
  """An actor-critic agent with P heads on one torso.

  Attributes:
    network: torso and heads.
    metaopt: owns the update: `fixed` (IMPALA), `metagradient` (STAC, STACX), or `ac_lambda`
      (Metatrace).
    objective: the loss and its optimiser; None where the update minimises no loss, as that of
      `ac_lambda`.
    heads: P; every head has its own policy, value and metaparameters.
    behaviour: who acts: the first head, a random one, or the average of all.
  """

  network: NetworkPlugin
  metaopt: MetaOptimizer
  objective: Objective | None = None
  heads: Count = 1
  behaviour: BehaviourName = "first"

  def __post_init__(self):
    # When it is configured: patterns that match nothing are told before an environment is made.
    if isinstance(self.metaopt, ChecksComponents):
      self.metaopt.check(self.components)

  @property
  def components(self) -> dict[str, Any]:
    """The plugins whose tunables a meta-optimiser may tune, by registered name."""
    if self.objective is None:
      return {}
    parts = (self.objective.corrector, *self.objective.losses, self.objective.optimizer)
    return {name_of(part): part for part in parts}

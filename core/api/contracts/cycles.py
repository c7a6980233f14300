"""The contract of meta-optimisers whose metagradient `selftune check` can compare with differences.

Only authors of such meta-optimisers read this.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from ..tunables import Components
from ..types import Array, LearnerState, PyTree, Trajectory
from .metaoptimizers import AgentFns


class Target(NamedTuple):
  """A bootstrapped target, which theta_K is to match in place of a low outer loss (BMG)."""

  steps: int  # L: L - 1 inner updates on the outer batch, and then one on the outer loss
  learning_rate: float | None  # of plain descent in the last one; None: the agent's optimiser
  policy: float  # weight of KL(target || theta_K)
  value: float  # weight of the squared distance of values


class Cycle(NamedTuple):
  """One judgement of metaparameters: K inner updates and what they are judged by.

  The agent's own losses and optimiser say the rest. What is logged for it, with the batch of number
  `judged`, is the derivative, `metagrad/<number>/<head>`, and its norm by all of `etas` and `more`,
  `metagrad_norm`.
  """

  etas: Mapping[str, Array]  # unconstrained metaparameters by name, [P] or [1]
  inner: tuple[Trajectory, ...]  # the batch of each inner update, [T+1, B]
  outer: Trajectory  # what judges them, [T+1, B]
  judged: int  # from 0
  target: Target | None = None
  more: PyTree = ()  # weights that metaparameters follow from, too
  used: Callable[[Mapping[str, Array], PyTree, int], Mapping[str, Array]] = lambda etas, more, k: (
    etas
  )  # (etas, more, k) -> metaparameters as update k used them


@runtime_checkable
class HasCycle(Protocol):
  """Optional part of a meta-optimiser by metagradients: says what its next cycle is made of."""

  def tuned(self, components: Components) -> Collection[str]:
    """Returns the names of what is tuned of an agent's plugins, 'component.field'."""
    ...

  def cycle(
    self, fns: AgentFns, states: Sequence[LearnerState], batches: Sequence[Trajectory]
  ) -> Cycle | None:
    """Returns the cycle that begins with the first of these batches.

    Args:
      fns: the agent.
      states: before each batch, the first of phase 0, and after the last.
      batches: one more than the cycle has phases, [T+1, B] each.

    Returns:
      None where nothing is tuned.
    """
    ...

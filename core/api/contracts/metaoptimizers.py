"""The contract of the meta-optimiser, which updates an agent, and of the agent as it is given."""

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

from ..tunables import Components
from ..types import (
  Array,
  Described,
  HeadOut,
  LearnerState,
  Metrics,
  PyTree,
  Trajectory,
)
from .agents import Distribution, Network


class AgentFns(Protocol):
  """The agent as pure functions, which a meta-optimiser is given.

  `values` are tuned values by name, [P] (optimiser tunables: [1]); what is absent keeps its
  configured value. A behaviour that needs heads beyond the P tuned ones has E extra heads; an outer
  critic is C heads more. Po are the heads that the outer loss is about.
  """

  network: Network
  distribution: Distribution
  components: Components  # corrector, loss terms and optimiser, by registered name

  @property
  def tunable_shapes(self) -> Mapping[str, tuple[int, ...]]:
    """The shape of each tuned value by name: (P,), or (1,) of the optimiser's."""
    ...

  def gamma(self, values: Mapping[str, Array]) -> Array:
    """Returns each head's discount, [P + E + C]."""
    ...

  def inner_loss(
    self,
    params: PyTree,
    values: Mapping[str, Array],
    trajectory: Trajectory,
    fixed: PyTree | None = None,
  ) -> tuple[Array, tuple[Metrics, Array]]:
    """Computes the loss that updates minimise, averaged over the P heads.

    Args:
      params: of the network.
      values: tuned values by name, [P].
      trajectory: [T+1, B].
      fixed: the same parameters, for what is stopped where this is None: IS ratios and targets. A
        derivative of the gradient by the parameters needs both: d g(theta, theta) / d theta.

    Returns:
      Loss []; metrics by name, [P], and the policies that the outer loss is about, [Po, T, B, A].
    """
    ...

  def outer_heads(self, params: PyTree, gamma: Array, trajectory: Trajectory) -> HeadOut:
    """Evaluates the heads that the outer loss is about; the arguments are those of `outer_loss`.

    Returns:
      Policies [Po, T+1, B, A] and values [Po, T+1, B]: the agent's own, not an outer critic's.
    """
    ...

  def outer_loss(
    self, params: PyTree, gamma: Array, reference: Array, trajectory: Trajectory
  ) -> tuple[Array, Metrics]:
    """Computes the loss that metaparameters minimise, as `objective.outer` says it.

    Args:
      params: of the network.
      gamma: each head's discount for networks that embed it, [P + E + C].
      reference: the policies that a KL term is to, [Po, T, B, A].
      trajectory: [T+1, B].

    Returns:
      Loss [] and metrics [].
    """
    ...

  def optimizer_step(
    self,
    params: PyTree,
    grads: PyTree,
    opt_state: PyTree,
    step: Array,
    values: Mapping[str, Array],
  ) -> tuple[PyTree, PyTree]:
    """Takes one step of the optimiser with its tuned values, [1]; `step` [] counts updates.

    Returns:
      New parameters and optimiser state.
    """
    ...

  @property
  def accumulate(self) -> Callable[..., tuple[PyTree, PyTree, PyTree]]:
    """A function `accumulate(f, batch, *stacked)`, over the K micro-batches of every device.

    It splits the Trajectory `batch` and maps `f(micro_batch, *slices) -> (sums, means, stacked)`
    over the parts; it returns the sums added, the means averaged over micro-batches and devices
    (of one whose name ends in `/max`, the greatest), and `stacked` as it came from each
    micro-batch, [K, ...]: what a later call may take as its `*stacked`, with the same batch. A part
    of a batch, of fewer trajectories, is split likewise, into as few as it needs.
    """
    ...


class MetaOptimizer(Protocol):
  """Kind `metaopt`: owns the whole update of an agent.

  All that it needs is here; what it may offer besides are `ChecksComponents`, `Cyclic`,
  `TunesValues` and `DescribesState`.
  """

  def init(self, fns: AgentFns, state: LearnerState, batch: Trajectory) -> PyTree:
    """Returns the meta state, given the first state without it and a batch's shapes, [T+1, B].

    A Trajectory in the meta state is split over devices like a batch; all else is replicated.

    Raises:
      ValueError: it does not take such batches.
    """
    ...

  def step(
    self, fns: AgentFns, state: LearnerState, batch: Trajectory
  ) -> tuple[LearnerState, Metrics]:
    """Updates everything on a batch [T+1, B]; metrics are []. Core counts the step itself.

    Where several are not finite, the first cause is told by how names begin: `loss/`, `grad_norm`,
    `outer_loss/`, `metagrad` (of what is tuned), and then all others. `selftune plot` draws a line
    for each `tuned/<number>/<head>`, and a panel for each metric whose name has no `/`.
    """
    ...


@runtime_checkable
class ChecksComponents(Protocol):
  """Optional part of a meta-optimiser that cannot tune just any agent."""

  def check(self, components: Components) -> None:
    """Checks an agent's plugins, by name, when it is configured.

    Raises:
      ValueError: it cannot tune them; a pattern of `tune` matches nothing.
    """
    ...


@runtime_checkable
class Cyclic(Protocol):
  """Optional part of a meta-optimiser that does different things with the batches of a cycle."""

  @property
  def phases(self) -> int:
    """N, the number of batches of a cycle; batch k of a run is of phase k mod N."""
    ...

  def step(
    self, fns: AgentFns, state: LearnerState, batch: Trajectory, phase: int = 0
  ) -> tuple[LearnerState, Metrics]:
    """Does what `MetaOptimizer.step` does on a batch [T+1, B], in one phase; metrics are [].

    `phase` is a number of Python's, not traced: each phase is compiled on its own. The state has
    the same structure, and the metrics have the same names, in every phase.
    """
    ...


def phases_of(metaopt: MetaOptimizer) -> int:
  """Returns the number of batches of a meta-optimiser's cycle: 1, unless it says more."""
  return metaopt.phases if isinstance(metaopt, Cyclic) else 1


@runtime_checkable
class TunesValues(Protocol):
  """Optional part of a meta-optimiser that tunes numbers of the agent's plugins."""

  def values(self, fns: AgentFns, meta_state: PyTree) -> dict[str, Array]:
    """Returns the tuned values by name as plugins see them, [P] or [1]."""
    ...


@runtime_checkable
class DescribesState(Protocol):
  """Optional part of a meta-optimiser that has more to log than the metrics of its steps."""

  def describe(self, state: LearnerState) -> Described:
    """Returns scalars [] and histograms of a state, worth their cost where a row is logged."""
    ...

"""The contracts of what an agent is made of: networks, correctors, loss terms, optimisers."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from ..types import (
  Array,
  CorrectorInputs,
  EnvSpec,
  HeadOut,
  LossInputs,
  Metrics,
  PyTree,
  Targets,
  TimeStep,
)


class Distribution(Protocol):
  """The contract of an action distribution: functions of A parameters, for any batch shape [...].

  A sample may differ from the action that the environment is sent: it is what log-probabilities
  are exact of.
  """

  @property
  def size(self) -> int:
    """A, the number of parameters."""
    ...

  def sample(self, key: Array, params: Array) -> Array:
    """Draws samples [..., *event] with parameters [..., A]."""
    ...

  def mode(self, params: Array) -> Array:
    """Returns the greedy samples [..., *event] of parameters [..., A]."""
    ...

  def log_prob(self, params: Array, sample: Array) -> Array:
    """Computes log-probabilities [...] of samples [..., *event] under parameters [..., A]."""
    ...

  def entropy(self, params: Array) -> Array:
    """Computes entropies in nats, [...], of parameters [..., A].

    Raises:
      UserError: there is no closed form.
    """
    ...

  def normal_kl(self, params: Array) -> Array:
    """Computes KL(params || N(0, 1)) in nats, [...], of parameters [..., A].

    Raises:
      UserError: the distribution is not comparable to a normal.
    """
    ...

  def kl(self, params: Array, reference: Array) -> Array:
    """Computes KL(params || reference) in nats, [...], of parameters [..., A] each."""
    ...

  def to_action(self, sample: Array) -> Array:
    """Returns the actions that the environment is sent for samples [..., *event]."""
    ...


class Network(NamedTuple):
  """The pure functions of a network.

  `unroll` evaluates the first `len(gamma)` heads; a recurrent network resets its state wherever
  `timestep.first`. `gamma` is for networks that embed it, the others ignore its values.
  """

  init: Callable[[Array], PyTree]  # key -> params, float32
  initial_state: Callable[[int], PyTree]  # batch size -> core state [B, ...]
  unroll: Callable[[PyTree, TimeStep, PyTree, Array], tuple[HeadOut, PyTree]]
  # (params, timestep [T, B, ...], core_state [B, ...], gamma [P]) -> HeadOut [P, T, B, ...], state
  heads_alone: Callable[[PyTree], PyTree] | None = None
  # params -> the same, all stopped but for the heads': for outer.critic = 'stopped'


class NetworkPlugin(Protocol):
  """Kind `network`: describes a network, and builds its functions."""

  def build(self, spec: EnvSpec, policy_size: int, heads: int) -> Network:
    """Builds the functions of the network.

    Args:
      spec: of one environment.
      policy_size: A, the number of distribution parameters of the policy.
      heads: how many heads the parameters hold.

    Raises:
      ValueError: the network cannot take observations of this shape; the message says which it can.
    """
    ...


class Corrector(Protocol):
  """Kind `corrector`: turns one head's values and IS ratios into targets.

  Never calls stop_gradient: core has stopped the inputs, and the metagradient of every tunable
  flows through both targets. Sees any batch shape [T, ...].
  """

  @property
  def gamma(self) -> Any:
    """The discount, a number; [] where it is tuned."""
    ...

  def __call__(self, x: CorrectorInputs) -> tuple[Targets, Metrics]:
    """Computes targets [T, B], and metrics per transition, [T, B]."""
    ...


class LossTerm(Protocol):
  """Kind `loss`: one term of the loss, per transition.

  Never calls stop_gradient: core has stopped what must be.
  """

  def __call__(self, x: LossInputs) -> tuple[Array, Metrics]:
    """Computes the term and its metrics for each transition, [T, B] each.

    The term is unmasked and unreduced: core masks and sums it, and averages the metrics over valid
    transitions.
    """
    ...


class Optimizer(Protocol):
  """Kind `optimizer`: one differentiable step on the agent's parameters.

  The derivative of the new parameters with respect to gradients and tunables must be finite
  everywhere, at zero gradient too.
  """

  def init(self, params: PyTree) -> PyTree:
    """Returns the first state for parameters, a tree of arrays [...]."""
    ...

  def update(
    self, grads: PyTree, opt_state: PyTree, params: PyTree, progress: Array
  ) -> tuple[PyTree, PyTree]:
    """Takes one step.

    Args:
      grads: of the loss, a tree like the parameters.
      opt_state: of the step before.
      params: a tree of arrays [...].
      progress: from 0 to 1 over training, [].

    Returns:
      The new parameters and state, of the same structure and shapes.
    """
    ...

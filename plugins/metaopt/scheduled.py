"""The meta-optimiser whose values follow a schedule: what self-tuning has to be better than."""

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
import optax

from ...core.api import (
  AgentFns,
  Array,
  Count,
  LearnerState,
  Metrics,
  Trajectory,
  register,
  tunables,
)
from . import _eta
from ._chain import Etas
from ._update import inner_gradient


@register("metaopt", "scheduled")
@dataclasses.dataclass(frozen=True)
class Scheduled:
  """Moves numbers from one value to another, on a straight line of eta, the unconstrained one.

  A discount so goes up by equal factors of 1 / (1 - gamma), as a metagradient moves it. Where
  `ends` is empty it equals `fixed`.

  Attributes:
    ends: first and last value by pattern over `component.field`, as plugins see it.
    updates: after so many the last value is reached, and stays.
  """

  ends: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
  updates: Count = 10_000

  def check(self, components: tunables.Components) -> None:
    """Checks `ends` against the agent's plugins.

    Raises:
      ValueError: a pattern matches nothing, or a value is beyond what its number can be.
    """
    # In plain numbers: a configuration that is read is to start no device.
    for name, (t, ends) in self._ends(components).items():
      low, high = t.domain.ends(t.value)
      if not all(low < end < high for end in ends):
        raise ValueError(f"ends of {name} must lie strictly between {low:g} and {high:g}.")

  def init(self, fns: AgentFns, state: LearnerState, batch: Trajectory) -> Etas:
    """Returns the first etas by name, [P] or [1], whatever the batch [T+1, B]."""
    del batch
    return self._etas(fns, state.step)

  def step(
    self, fns: AgentFns, state: LearnerState, batch: Trajectory
  ) -> tuple[LearnerState, Metrics]:
    """Takes one optimiser step on the inner loss of a batch [T+1, B]; metrics are []."""
    values = self.values(fns, state.meta_state)
    grads, metrics, _ = inner_gradient(fns, state.params, values, batch)
    params, opt_state = fns.optimizer_step(state.params, grads, state.opt_state, state.step, values)
    metrics |= {"grad_norm": optax.tree.norm(grads)} | _eta.by_head("tuned", values)
    etas = self._etas(fns, state.step + 1)
    return state._replace(params=params, opt_state=opt_state, meta_state=etas), metrics

  def values(self, fns: AgentFns, meta_state: Etas) -> dict[str, Array]:
    """Returns the values of now by name, [P] or [1]."""
    return tunables.transform(meta_state, tunables.collect(fns.components))

  def _etas(self, fns: AgentFns, step: Array) -> Etas:
    """Returns the etas after so many updates, [], by name: [P] or [1]."""
    way = jnp.minimum(step / self.updates, 1.0)
    etas = {}
    for name, (t, ends) in self._ends(fns.components).items():
      first, last = (t.domain.inverse(end, t.value) for end in ends)
      etas[name] = jnp.full(fns.tunable_shapes[name], first + way * (last - first), float)
    return etas

  def _ends(
    self, components: tunables.Components
  ) -> dict[str, tuple[tunables.Tunable, tuple[float, float]]]:
    """Returns each number that moves with its first and last value, by name."""
    known = tunables.collect(components)
    return {
      name: (t, ends)
      for pattern, ends in self.ends.items()
      for name, t in tunables.select(known, (pattern,), "ends").items()
    }

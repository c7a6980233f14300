"""A step size that becomes smaller."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp

from selftune import Array, Metrics, Positive, Scalar, TunerInputs, register


class State(NamedTuple):
  alpha: Array  # [] of the first step
  step: Array  # []


@register("tuner", "decaying")
@dataclasses.dataclass(frozen=True)
class Decaying:
  """alpha_t = alpha_0 / (1 + t / patience)."""

  patience: Positive = 1000.0

  def init(self, alpha: Scalar, params: Array) -> State:
    return State(jnp.asarray(alpha, params.dtype), jnp.zeros((), params.dtype))

  def update(self, state: State, x: TunerInputs) -> tuple[State, Array]:
    del x  # delta, traces and gradients: what a tuner that learns would look at
    state = State(state.alpha, state.step + 1)
    return state, self._alpha(state)

  def beta(self, state: State) -> Array:
    return jnp.log(self._alpha(state))

  def metrics(self, state: State) -> Metrics:
    return {"alpha": self._alpha(state)}

  def _alpha(self, state: State) -> Array:
    return state.alpha / (1 + state.step / self.patience)

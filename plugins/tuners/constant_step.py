"""No tuning: the baseline."""

import dataclasses

import jax.numpy as jnp

from ...core.api import Array, Dots, Metrics, Scalar, TunerInputs, register
from . import _scalar


@register("tuner", "constant_step")
@dataclasses.dataclass(frozen=True)
class ConstantStep:
  """Tunes nothing: the step size stays what it was."""

  def init_rule(self, alpha: Scalar, like: Array) -> Array:
    return _scalar.log(alpha, like)

  def adapt(self, rule: Array, x: Dots) -> tuple[Array, Array]:
    del x
    return rule, jnp.exp(rule)

  def init(self, alpha: Scalar, params: Array) -> _scalar.State:
    return _scalar.State(self.init_rule(alpha, params), ())

  def update(self, state: _scalar.State, x: TunerInputs) -> tuple[_scalar.State, Array]:
    del x
    return state, jnp.exp(state.rule)

  def beta(self, state: _scalar.State) -> Array:
    return state.rule

  def metrics(self, state: _scalar.State) -> Metrics:
    del state
    return {}

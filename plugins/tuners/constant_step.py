"""The tuner that tunes nothing: the baseline."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp

from ...core.api import Array, Dots, Metrics, Native, Scalar, TunerInputs, register
from . import _scalar


@register("tuner", "constant_step")
@dataclasses.dataclass(frozen=True)
class ConstantStep:
  """Tunes nothing: the step size stays what it was."""

  def init_rule(self, alpha: Scalar, like: Array) -> Array:
    """Returns beta = log alpha, []."""
    return _scalar.log_alpha(alpha, like)

  def adapt(self, rule: Array, x: Dots) -> tuple[Array, Array]:
    """Returns beta as it is, and alpha, [] each."""
    del x
    return rule, jnp.exp(rule)

  # Its own `init` and `update`: nothing depends on h, and () spares its N numbers.
  def init(self, alpha: Scalar, params: Array) -> _scalar.State:
    """Returns the state: beta = log alpha, [], and no h."""
    return _scalar.State(self.init_rule(alpha, params), ())

  def update(self, state: _scalar.State, x: TunerInputs) -> tuple[_scalar.State, Array]:
    """Returns the state as it is, and alpha, []."""
    del x
    return state, jnp.exp(state.rule)

  def beta(self, state: _scalar.State) -> Array:
    """Returns the log step size, []."""
    return state.rule

  def metrics(self, state: _scalar.State) -> Metrics:
    """Returns {}: a step size that stays as it is has nothing to log, [] or other."""
    del state
    return {}

  def native(self) -> Native:
    """Returns the form in C++."""
    return Native(Path(__file__).with_name("_rules.h"), "ConstantStep")

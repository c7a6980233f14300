"""Tunables: numbers of plugins that can be fixed or self-tuned.

A plugin is a frozen dataclass and declares such a number once, with `tunable(default, domain)`. An
experiment chooses which of them a meta-optimiser tunes, by patterns over `component.field`. The
metaparameters are a flat dict `{'entropy.cost': eta [P]}`, unconstrained; a domain maps each to the
value the plugin sees (Algorithm 2, line 10 of the STAC paper).
"""

import dataclasses
import fnmatch
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .errors import did_you_mean
from .types import Array

Components = Mapping[str, Any]  # component name -> plugin instance
Etas = dict[str, Array]  # metaparameters by tunable name, unconstrained, [P] or [1]


class Domain(NamedTuple):
  """A domain of values: the map to it from an unconstrained eta, given the configured value."""

  name: str
  transform: Callable[[Array, Any], Array]  # (eta, configured) -> value
  initial: Callable[[float, Any], Any]  # (eta_init, configured) -> eta
  inverse: Callable[[Any, Any], Any]  # (value, configured) -> eta; infinite at the domain's ends
  ends: Callable[[float], tuple[float, float]]  # configured -> least and greatest value


def _logit(x: Any) -> Array:
  return jnp.log(x) - jnp.log1p(-x)


def _softplus_inverse(value: Any) -> Array:
  # log(e^v - 1), written so that it neither overflows nor cancels.
  return value + jnp.log(-jnp.expm1(-value))


# sigmoid(4.6) = 0.99, so eta_init = 4.6 starts UNIT at 0.99 and SCALE at 0.99 of its value.
UNIT = Domain(
  "unit",
  lambda eta, _: jax.nn.sigmoid(eta),
  lambda eta_init, _: eta_init,
  lambda value, _: _logit(value),
  lambda _: (0.0, 1.0),
)
SCALE = Domain(
  "scale",
  lambda eta, configured: jax.nn.sigmoid(eta) * configured,
  lambda eta_init, _: eta_init,
  lambda value, configured: _logit(value / configured),
  lambda configured: (0.0, configured),
)
POSITIVE = Domain(
  "positive",
  lambda eta, _: jax.nn.softplus(eta),
  lambda _, configured: _softplus_inverse(configured),
  lambda value, _: _softplus_inverse(value),
  lambda _: (0.0, math.inf),
)


class Tunable(NamedTuple):
  """One declared tunable: where it lives, its domain, symbol in the paper, and configured value."""

  component: str
  field: str
  domain: Domain
  symbol: str
  value: float

  @property
  def name(self) -> str:
    """The name that patterns choose it by and metrics are logged under, 'component.field'."""
    return f"{self.component}.{self.field}"


def tunable(default: float, domain: Domain, symbol: str = "") -> Any:
  """Declares a dataclass field that a meta-optimiser may tune.

  Args:
    default: the value when nothing is configured; a configured value replaces it.
    domain: UNIT (sigmoid), SCALE (sigmoid x configured value) or POSITIVE (softplus).
    symbol: the paper's symbol, shown by `selftune plugins`.
  """
  return dataclasses.field(default=default, metadata={"tunable": (domain, symbol)})


def declared(name: str, plugin: Any) -> list[Tunable]:
  """Lists the tunables of one plugin (an instance, or a class: then `value` is the default)."""
  return [
    Tunable(name, f.name, *f.metadata["tunable"], value=getattr(plugin, f.name))
    for f in dataclasses.fields(plugin)
    if "tunable" in f.metadata
  ]


def collect(components: Components) -> dict[str, Tunable]:
  """Collects all tunables of an agent's components by name, in order of the components."""
  return {t.name: t for name, plugin in components.items() for t in declared(name, plugin)}


def select(
  tunables: Mapping[str, Tunable], patterns: tuple[str, ...], setting: str = "tune"
) -> dict[str, Tunable]:
  """Selects the tunables that match any of the patterns (`fnmatch`: `*.cost`), as declared.

  Args:
    tunables: to choose from, by name.
    patterns: what to choose.
    setting: the setting that holds the patterns, for messages.

  Raises:
    ValueError: a pattern matches nothing; the message lists what exists.
  """
  for pattern in patterns:
    if not fnmatch.filter(tunables, pattern):
      raise ValueError(
        f"{setting} pattern '{pattern}' matches no tunable.{did_you_mean(pattern, tunables)} "
        f"There are: {', '.join(tunables) or 'none'}."
      )
  return {
    name: t
    for name, t in tunables.items()
    if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
  }


def transform(etas: Etas, tunables: Mapping[str, Tunable]) -> Etas:
  """Computes zeta(eta), the values that plugins see (Algorithm 2, line 10 of STAC).

  Args:
    etas: by tunable name, [P] or [1].
    tunables: their domains and configured values, by name.

  Returns:
    The values, of the same keys and shapes.
  """
  return {
    name: tunables[name].domain.transform(eta, jnp.asarray(tunables[name].value, eta.dtype))
    for name, eta in etas.items()
  }


def bind(components: Components, values: Mapping[str, Any]) -> dict[str, Any]:
  """Returns copies of the components with given values in place of the configured ones.

  Args:
    components: by name.
    values: by 'component.field'; those of other components are ignored.
  """
  bound = {}
  for name, plugin in components.items():
    fields = {f: v for key, v in values.items() for c, f in [key.rsplit(".", 1)] if c == name}
    # A copy and no assignment: tracers must not outlive the trace, and plugins are frozen.
    bound[name] = dataclasses.replace(plugin, **fields) if fields else plugin
  return bound

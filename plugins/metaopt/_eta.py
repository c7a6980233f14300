"""Where metaparameters start, how far they may go, and how they are logged."""

from collections.abc import Mapping

import jax.numpy as jnp

from ...core.api import AgentFns, Array, Metrics, tunables
from ._chain import Etas

Tuned = Mapping[str, tunables.Tunable]


def first(
  fns: AgentFns,
  tuned: Tuned,
  eta_init: float,
  given: Mapping[str, float],
  bounds: Mapping[str, tuple[float, float]],
) -> Etas:
  """Returns the first etas by name, [P] or [1].

  Args:
    fns: know the shapes.
    tuned: what is tuned.
    eta_init: the first eta, in domains that start from it (UNIT and SCALE).
    given: first etas by pattern, in place of what the domain says.
    bounds: see `within`, which the first etas are, too.
  """
  start = {name: t.domain.initial(eta_init, t.value) for name, t in tuned.items()}
  # What is given by pattern replaces what the domain says.
  start |= starts(tuned, given)
  # float, for a whole number that is configured would make integers, which have no gradient.
  etas = {name: jnp.full(fns.tunable_shapes[name], eta, float) for name, eta in start.items()}
  return within(etas, tuned, bounds)


def starts(tuned: Tuned, given: Mapping[str, float]) -> dict[str, float]:
  """Returns the initial etas that are given by pattern, by name.

  Raises:
    ValueError: a pattern matches nothing that is tuned.
  """
  start: dict[str, float] = {}
  for pattern, eta in given.items():
    start |= dict.fromkeys(tunables.select(tuned, (pattern,), "eta_init_of"), eta)
  return start


def check_bounds(tuned: Tuned, given: Mapping[str, tuple[float, float]]) -> None:
  """Checks `bounds` against the configured values, which are plain numbers here, not traced ones.

  Raises:
    ValueError: a pattern matches nothing, the first bound is not less than the second, or the
      domain has no value between them.
  """
  for pattern, (least, greatest) in given.items():
    if not least < greatest:
      raise ValueError(f"bounds['{pattern}'] = {(least, greatest)}: the first is to be less.")
    for name, t in tunables.select(tuned, (pattern,), "bounds").items():
      low, high = t.domain.ends(t.value)
      if not (least < high and low < greatest):
        raise ValueError(
          f"bounds['{pattern}'] = {(least, greatest)}: {name} is tuned from {low:g} to {high:g}, "
          "of which nothing lies between."
        )


def within(
  etas: Mapping[str, Array], tuned: Tuned, bounds: Mapping[str, tuple[float, float]]
) -> Etas:
  """Returns etas by name, [P] or [1], each moved to the nearer end where it is out of bounds.

  Args:
    etas: of what is tuned.
    tuned: what is tuned.
    bounds: least and greatest value as plugins see it, by pattern; see `check_bounds`.
  """
  clipped = dict(etas)
  for pattern, (least, greatest) in bounds.items():
    for name, t in tunables.select(tuned, (pattern,), "bounds").items():
      # Bounds are on what plugins see and eta is unconstrained; every domain's map is increasing.
      low, high = (jnp.asarray(t.domain.inverse(x, t.value)) for x in (least, greatest))
      # NaN: a bound beyond the domain, within which every eta lies anyway.
      nowhere = lambda x, end: jnp.where(jnp.isnan(x), end, x)
      # Of `etas`, not of `clipped`: where several patterns match, the last one counts.
      clipped[name] = jnp.clip(etas[name], nowhere(low, -jnp.inf), nowhere(high, jnp.inf))
  return clipped


def by_head(kind: str, tree: Mapping[str, Array]) -> Metrics:
  """Returns numbers by name, [P] or [1] each, as metrics [] by kind, name and head."""
  return {f"{kind}/{name}/{p}": x for name, xs in tree.items() for p, x in enumerate(xs)}

"""Checks of what plugins give, where it enters: structure, shapes and dtypes, with their name.

Compiled functions call these while they are traced, so that an update pays nothing for them. A loss
of shape [B] or [] instead of [T, B] would else train in silence, with T or T B times its weight.
"""

from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from .contracts import Network, RunInfo, Writer, WriterPlugin
from .errors import UserError
from .online import SparseNetwork
from .registry import kind_of, name_of
from .types import (
  OF_CORE,
  Array,
  HeadOut,
  Histogram,
  LearnerState,
  Metrics,
  PyTree,
  Targets,
  TimeStep,
)

FLOAT = (jnp.float32, jnp.float64)  # the second one only where JAX is set to 64 bits
NUMBER = (jnp.number, jnp.bool_)
WHOLE = (jnp.integer, jnp.bool_)


def who(plugin: Any) -> str:
  """Names a plugin as a configuration writes it: `loss @entropy()`; unregistered, by its class."""
  try:
    name = name_of(plugin)
  except KeyError:
    return type(plugin).__qualname__
  return f"{kind_of(name)} @{name}()"


def described(x: Any) -> str:
  """Describes what a plugin gave, for messages: `float32 [5, 4]`, `None`, `a str`."""
  if x is None:
    return "None"
  aval = _aval(x)
  return f"a {type(x).__name__}" if aval is None else f"{aval.dtype} {list(aval.shape)}"


def array(
  owner: str,
  what: str,
  x: Any,
  shape: tuple[int, ...],
  axes: str = "",
  dtypes: tuple[Any, ...] = FLOAT,
) -> None:
  """Checks the shape and dtype of one array.

  Args:
    owner: the plugin, as `who` names it.
    what: the array is, for the message.
    x: the array [...], which may be traced; or whatever was given in its place.
    shape: that it must have.
    axes: their names, such as 'T, B'.
    dtypes: one of these it must have, or be a kind of.

  Raises:
    UserError: says what was given, and what is wanted.
  """
  aval = _aval(x)
  fits = (
    aval is not None
    and aval.shape == shape
    and any(jnp.issubdtype(aval.dtype, dtype) for dtype in dtypes)
  )
  if not fits:
    kind = {FLOAT: "float32", NUMBER: "numbers", WHOLE: "bool or integers"}[dtypes]
    named = f"[{axes}] = " if axes else ""
    raise UserError(f"{owner} gave {described(x)} as {what}; wanted: {kind} {named}{list(shape)}.")


def tree(owner: str, what: str, given: PyTree, wanted: PyTree) -> None:
  """Checks that a tree has the structure, shapes [...] and dtypes of another.

  Args:
    owner: the plugin.
    what: the tree is, for the message.
    given: the tree, of arrays or whatever was given in their place.
    wanted: the other, as it was before the step.

  Raises:
    UserError: names the first leaf that differs.
  """
  # None is no leaf to JAX: without this, one in place of an array would pass for structure.
  is_none = lambda x: x is None
  (found, shape), (want, wanted_shape) = (
    jax.tree_util.tree_flatten_with_path(x, is_leaf=is_none) for x in (given, wanted)
  )
  found, want = (
    {jax.tree_util.keystr(path): described(x) for path, x in leaves} for leaves in (found, want)
  )
  for path in want | found:
    if found.get(path) != want.get(path):
      raise UserError(
        f"{owner} gave {found.get(path, 'nothing')} as {what}{path}; wanted: "
        f"{want.get(path, 'nothing')}, as before the step."
      )
  if shape != wanted_shape:
    raise UserError(f"{owner} gave {shape} as {what}; wanted: {wanted_shape}, as before the step.")


def arrays(owner: str, what: str, given: PyTree) -> PyTree:
  """Returns `given`; raises UserError unless it is a tree of arrays, [...] each."""
  for path, x in jax.tree_util.tree_leaves_with_path(given):
    if _aval(x) is None:
      name = f"{what}{jax.tree_util.keystr(path)}"
      raise UserError(f"{owner} gave {described(x)} as {name}; wanted: an array.")
  return given


def metrics(
  owner: str, given: Any, shape: tuple[int, ...], axes: str = "", taken: Collection[str] = ()
) -> Metrics:
  """Returns metrics, checked: arrays of one shape by names that nobody else has.

  Args:
    owner: the plugin.
    given: its metrics.
    shape: of each: [T, B] of losses and correctors, [] of meta-optimisers.
    axes: their names, such as 'T, B'.
    taken: the names of others' metrics.

  Raises:
    UserError: they are something else.
  """
  _names(owner, given, taken)
  for name, x in given.items():
    array(owner, f"metric '{name}'", x, shape, axes, NUMBER)
  return given


def loss(owner: str, given: Any, like: Array, taken: Collection[str]) -> tuple[Array, Metrics]:
  """Returns what a loss term gave, checked: a loss and metrics of the shape [T, B] of `like`."""
  term, found = several(owner, given, ("loss [T, B]", "metrics"))
  array(owner, "its loss", term, like.shape, "T, B")
  return term, metrics(owner, found, like.shape, "T, B", taken)


def targets(owner: str, given: Any, like: Array, taken: Collection[str]) -> tuple[Targets, Metrics]:
  """Returns what a corrector gave, checked: Targets, metrics of the shape [T, B] of `like`."""
  found, of_it = several(owner, given, ("Targets", "metrics"))
  instance(owner, "its targets", found, Targets)
  for name, x in found._asdict().items():
    array(owner, f"Targets.{name}", x, like.shape, "T, B")
  return found, metrics(owner, of_it, like.shape, "T, B", taken)


def network(owner: str, given: Any, policy_size: int) -> Any:
  """Returns the network with functions that check what they give; `policy_size` is A."""
  if not isinstance(given, SparseNetwork):
    instance(owner, "its network", given, Network)

  def init(key: Array) -> PyTree:
    params = given.init(key)
    if params is None:
      raise UserError(f"{owner} gave None as parameters; wanted: a tree of float32 arrays.")
    for path, x in jax.tree_util.tree_leaves_with_path(arrays(owner, "parameters", params)):
      array(owner, f"parameters{jax.tree_util.keystr(path)}", x, jnp.shape(x))
    return params

  def initial_state(batch_size: int) -> PyTree:
    state = arrays(owner, "its first core state", given.initial_state(batch_size))
    for x in jax.tree.leaves(state):
      if jnp.shape(x)[:1] != (batch_size,):
        raise UserError(
          f"{owner} gave {described(x)} in its first core state; wanted: [B, ...] with B = "
          f"{batch_size}."
        )
    return state

  def unroll(
    params: PyTree, timestep: TimeStep, core_state: PyTree, gamma: Array
  ) -> tuple[HeadOut, PyTree]:
    result = given.unroll(params, timestep, core_state, gamma)
    out, new_core_state = several(owner, result, ("HeadOut", "core state"))
    instance(owner, "its output", out, HeadOut)
    shape = (len(gamma), *timestep.first.shape)
    array(owner, "HeadOut.policy", out.policy, (*shape, policy_size), "P, T, B, A")
    array(owner, "HeadOut.value", out.value, shape, "P, T, B")
    tree(owner, "core state", new_core_state, core_state)
    return out, new_core_state

  return given._replace(init=init, initial_state=initial_state, unroll=unroll)


def optimizer(owner: str, given: Any, params: PyTree, opt_state: PyTree) -> tuple[PyTree, PyTree]:
  """Returns what an optimiser made of parameters and its state, checked: trees of arrays [...]."""
  new_params, new_opt_state = several(owner, given, ("new params", "new opt_state"))
  tree(owner, "new params", new_params, params)
  tree(owner, "new opt_state", new_opt_state, opt_state)
  return new_params, new_opt_state


def tuner(owner: str, given: Any, state: PyTree, params: Array) -> tuple[PyTree, Array]:
  """Returns the new state and step sizes of a tuner, checked.

  Args:
    owner: the plugin.
    given: what `update` returned.
    state: that it was given.
    params: [N]; or [] where the tuner has one step size for all.
  """
  new_state, alpha = several(owner, given, ("new state", "alpha"))
  tree(owner, "its new state", new_state, state)
  step_sizes(owner, "alpha", alpha, params)
  return new_state, alpha


def step_sizes(owner: str, what: str, x: Any, params: Array) -> Array:
  """Returns `x`; raises UserError unless it is one number [], or one a parameter, [N]."""
  # An [N] fits parameters [N] alone; one number fits both.
  if params.ndim and (_aval(x) is None or jnp.ndim(x)):
    array(owner, what, x, params.shape, "N")
  else:
    array(owner, what, x, ())
  return x


def updated(owner: str, given: Any, state: LearnerState) -> tuple[LearnerState, Metrics]:
  """Returns what a meta-optimiser made of a state, checked: a state like it, and metrics []."""
  new, found = several(owner, given, ("LearnerState", "metrics"))
  instance(owner, "its new state", new, LearnerState)
  tree(owner, "its new state", new, state)
  return new, metrics(owner, found, (), taken=OF_CORE)


def values(owner: str, given: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
  """Returns the tuned values that a meta-optimiser gave, checked: [P] or [1], as in `shapes`."""
  _names(owner, given, ())
  for name, x in given.items():
    if name not in shapes:
      known = ", ".join(shapes) or "none"
      raise UserError(f"{owner} gave a value of '{name}'; wanted: tunables of this agent: {known}.")
    array(owner, f"the value of '{name}'", x, shapes[name])
  return given


def description(owner: str, given: Any, taken: Collection[str] = ()) -> Mapping[str, Any]:
  """Returns what a meta-optimiser logs of a state, checked: scalars [] and histograms.

  Args:
    owner: the plugin.
    given: what `describe` returned.
    taken: the names of other metrics.
  """
  _names(owner, given, {*OF_CORE, *taken})
  scalars = {name: x for name, x in given.items() if not isinstance(x, Histogram)}
  metrics(owner, scalars, ())
  return given


def opened(plugin: WriterPlugin, run: RunInfo) -> Writer:
  """Opens the log of a run, and checks that it is one.

  Raises:
    UserError: the plugin gave something else.
  """
  log = plugin.open(run)
  if not isinstance(log, Writer):
    raise UserError(
      f"{who(plugin)} gave {described(log)} as its open log; wanted: a selftune."
      "Writer, with write, write_episodes and close."
    )
  return log


def _aval(x: Any) -> Any:
  """Returns shape and dtype of what JAX takes for an array, traced or not; else None."""
  try:
    return jax.typeof(x)
  except TypeError:
    return None


def several(owner: str, given: Any, parts: tuple[str, ...]) -> Any:
  """Returns `given`; raises UserError unless it is a tuple of as many parts."""
  if not isinstance(given, tuple) or len(given) != len(parts):
    size = f" of {len(given)}" if isinstance(given, tuple) else ""
    raise UserError(f"{owner} returned {described(given)}{size}; wanted: ({', '.join(parts)}).")
  return given


def instance(owner: str, what: str, given: Any, cls: type) -> None:
  """Raises UserError unless `given` is of a class."""
  if not isinstance(given, cls):
    raise UserError(f"{owner} gave {described(given)} as {what}; wanted: a {cls.__name__}.")


def _names(owner: str, given: Any, taken: Collection[str]) -> None:
  """Raises UserError unless `given` is a dict whose keys are names that nobody has."""
  if not isinstance(given, dict):
    raise UserError(f"{owner} returned {described(given)}; wanted: a dict of arrays by name.")
  for name in given:
    if not isinstance(name, str):
      raise UserError(f"{owner} gave a metric the name {name!r}; wanted: a string.")
    if name in taken:
      raise UserError(f"{owner} gave a metric '{name}', which another one has; rename it.")

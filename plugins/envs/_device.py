"""What environments of other libraries share on the device: one stream of timesteps for all."""

import contextlib
import dataclasses
import importlib
import importlib.util
import math
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs

from ...core.api import (
  Array,
  DrawnEnvironment,
  Environment,
  EnvSpec,
  FunctionalPool,
  PyTree,
  TimeStep,
  UserError,
)
from . import _pictures
from ._pool import unknown

Action = specs.DiscreteArray | specs.BoundedArray


class Stepped(NamedTuple):
  """What a step of a library's environment led to."""

  inner: PyTree  # the library's own state
  observation: Array  # [*observation]
  reward: Array  # []
  discount: Array  # [], 0 at termination alone
  done: Array  # [] bool: the episode has ended, by termination or truncation


class Library(NamedTuple):
  """An environment of a library, that does not reset itself."""

  spec: EnvSpec
  reset: Callable[[Array], tuple[PyTree, Array]]  # key -> state, observation
  step: Callable[[Array, PyTree, Array], Stepped]  # key, state, action
  draw: Callable[[PyTree], Array]  # state -> picture, uint8 [height, width, 3]


class State(NamedTuple):
  """The state of one environment and its episode."""

  inner: PyTree  # the library's own
  done: Array  # [] bool, the next step starts a new episode
  key: Array
  count: Array  # [] uint32, keys taken of `key`


class OnDevice:
  """What plugins share: it makes a `FunctionalEnvironment` and `DrawablePlugin` of `_library`."""

  _library: Library  # a cached property of each: made at first use, as imports take seconds

  @property
  def spec(self) -> EnvSpec:
    """Shapes, dtypes and bounds."""
    return self._library.spec

  def init(self, key: Array) -> tuple[State, TimeStep]:
    """Starts the first episode: the state, and its FIRST timestep, [*observation] and [] else."""
    inner, observation = _reset(self._library, jax.random.fold_in(key, 0))
    one = jnp.ones((), jnp.float32)
    state = State(inner, one < 0, key, jnp.ones((), jnp.uint32))
    return state, TimeStep(observation, 0 * one, one, one > 0)

  def step(self, state: State, action: Array) -> tuple[State, TimeStep]:
    """Makes a step with an action [*action]; after an end it starts an episode instead.

    The timestep is that of `Environment`, without a batch axis: [*observation], and [] else. Step n
    takes the key fold_in(key, n): where a library draws nothing, XLA leaves it out.
    """
    library, first = self._library, state.done
    key = jax.random.fold_in(state.key, state.count)
    new = library.step(key, state.inner, action)
    # At most one pass. `vmap` takes both branches of a `cond` at every step, but it enters a loop
    # only while an environment needs it.
    carry: Any = (first, _strong(new.inner), new.observation)
    _, inner, observation = jax.lax.while_loop(
      lambda x: x[0], lambda x: (jnp.zeros_like(first), *_reset(library, key)), carry
    )
    # Of the step that was made in vain where an episode has begun, nothing is kept.
    reward = jnp.where(first, 0, new.reward).astype(jnp.float32)
    discount = jnp.where(first, 1, new.discount).astype(jnp.float32)
    state = State(inner, new.done & ~first, state.key, state.count + 1)
    return state, TimeStep(observation, reward, discount, first)

  def make(self, seeds: tuple[int, ...]) -> Environment:
    """Makes a pool on the host, for other runtimes than `@runs()`."""
    return FunctionalPool(self, seeds)

  def make_drawn(self, seeds: tuple[int, ...]) -> DrawnEnvironment:
    """Makes the same pool, with the library's pictures; `draw` raises UserError without any."""
    _pictures.without_display()
    return FunctionalPool(self, seeds, lambda state: self._library.draw(state.inner))


def library(
  plugin: str, action: Action, reset: Callable, step: Callable, draw: Callable[[PyTree], Array]
) -> Library:
  """Makes a `Library` with the shapes and dtypes that its functions really give, by tracing them.

  Args:
    plugin: its name, for messages.
    action: spec of one action.
    reset: from a key to a state and an observation [*observation].
    step: from a key, a state and an action [*action] to `Stepped`.
    draw: from a state to its picture, uint8 [height, width, 3].

  Raises:
    UserError: they cannot be traced, as with parameters of another type.
  """
  key = jax.random.key(0)
  with explained(plugin):
    inner, observation = jax.eval_shape(reset, key)
    jax.eval_shape(step, key, inner, jax.ShapeDtypeStruct(action.shape, action.dtype))
  spec = specs.Array(observation.shape, observation.dtype)

  def drawn(inner: PyTree) -> Array:
    with explained(plugin, "draw this environment here"):
      return np.asarray(draw(inner))

  return Library(EnvSpec(spec, action), reset, step, drawn)


def with_params(what: str, params: Any, given: Mapping[str, Any], limit: str) -> Any:
  """Returns parameters of a library's environment, a dataclass, with those given in their place.

  Args:
    what: they are, for messages.
    params: as the library has them.
    given: by name.
    limit: the name of the one that is a time limit, in steps.

  Raises:
    UserError: `what` has none of such a name, or the limit allows no step.
  """
  known = [field.name for field in dataclasses.fields(params)]
  for name in given:
    if name not in known:
      raise UserError(unknown(f"{what}: name", name, known))
  if isinstance(steps := given.get(limit), int | float) and steps < 1:
    raise UserError(f"{what}: {limit} = {steps} must be at least 1.")
  return dataclasses.replace(params, **given)


def _reset(library: Library, key: Array) -> tuple[PyTree, Array]:
  inner, observation = library.reset(key)
  return _strong(inner), observation


def _strong(tree: PyTree) -> PyTree:
  """Gives arrays definite dtypes: a library's 0 of Python is the int32 that steps make of it."""
  return jax.tree.map(lambda x: jnp.asarray(x, jnp.asarray(x).dtype), tree)


def require(plugin: str, package: str) -> None:
  """Raises UserError, with the line to type, unless a package is installed; imports nothing."""
  if importlib.util.find_spec(package) is None:
    raise UserError(
      f"@{plugin}() needs a package that is not installed ({package}): pip install "
      f"'selftune[{plugin}]'"
    )


@contextlib.contextmanager
def explained(plugin: str, what: str = "be made with these settings") -> Iterator[None]:
  """Makes a UserError, that the plugin cannot `what`, of whatever its library raises within."""
  try:
    yield
  except UserError:
    raise
  except Exception as error:
    said = (str(error).splitlines() or [""])[0]
    raise UserError(f"@{plugin}() cannot {what}: {type(error).__name__}: {said}") from error


@contextlib.contextmanager
def making(plugin: str) -> Iterator[None]:
  """Makes a library's environment, and imports it, with arrays of its own, not traced ones."""
  # Modules keep arrays: those of an import within a trace would be dead after it.
  with explained(plugin), jax.ensure_compile_time_eval():
    yield


def imported(plugin: str, module: str) -> ModuleType:
  """Imports a module of a library, on first use: this takes seconds, and starts JAX.

  Raises:
    UserError: it cannot be imported; the message has the line to type.
  """
  try:
    return importlib.import_module(module)
  except ImportError as error:
    raise UserError(
      f"@{plugin}() cannot import {module} ({error}): pip install 'selftune[{plugin}]'"
    ) from error


def flat(plugin: str, observation: PyTree, field: str | None = None) -> Array:
  """Makes one array of an observation that may be many.

  Args:
    plugin: its name, for messages.
    observation: an array [...], which stays as it is; or a tree of them, which becomes one vector,
      float32 [D], in the order of JAX.
    field: of a dict or dataclass: take this one alone.

  Raises:
    UserError: there is no such field, or nothing in it.
  """
  if field is not None:
    known = _fields(observation)
    if field not in known:
      raise UserError(
        f"{plugin}.observation = {field!r} is no field of this observation. "
        f"Known: {', '.join(known) or 'none: it is an array'}."
      )
    observation = known[field]
  leaves = [jnp.asarray(x) for x in jax.tree.leaves(observation)]
  if len(leaves) == 1:
    return leaves[0]
  if not leaves or not all(jnp.issubdtype(x.dtype, np.number) or x.dtype == bool for x in leaves):
    raise UserError(f"@{plugin}(): an observation that holds other than numbers is not offered.")
  return jnp.concatenate([x.astype(jnp.float32).reshape(math.prod(x.shape)) for x in leaves])


def _fields(observation: PyTree) -> Mapping[str, Any]:
  if isinstance(observation, Mapping):
    return observation
  if hasattr(observation, "_asdict"):
    return observation._asdict()
  return {} if hasattr(observation, "shape") else vars(observation)


def of_brax(
  plugin: str,
  env: Any,
  episode_length: int,
  action_repeat: int,
  observe: Callable[[PyTree], Array],
  draw: Callable[[PyTree], Array],
) -> Library:
  """Makes a `Library` of what has brax's interface, a robot whose actions are within [-1, 1].

  Like brax's own `EpisodeWrapper`: a step repeats the action and adds the rewards, its `done`
  terminates, and an episode that has not ended by `episode_length` is truncated.

  Args:
    plugin: its name, for messages.
    env: without wrappers.
    episode_length: steps of `env`.
    action_repeat: steps of `env` that an action takes.
    observe: from its observation, perhaps a tree, to [*observation].
    draw: from its state to the picture, uint8 [height, width, 3].
  """

  def reset(key: Array):
    state = env.reset(key)
    return (state, jnp.zeros((), jnp.int32)), observe(state.obs)

  def step(key: Array, inner: Any, action: Array) -> Stepped:
    del key  # the state has its own
    state, steps = inner
    # As in brax's wrapper, an action is repeated past a `done`, and the last state's counts.
    state, rewards = jax.lax.scan(
      lambda state, _: ((new := _strong(env.step(state, action))), new.reward),
      state,
      length=action_repeat,
    )
    steps = steps + action_repeat
    terminated = state.done != 0
    done = terminated | (steps >= episode_length)
    return Stepped((state, steps), observe(state.obs), jnp.sum(rewards), ~terminated, done)

  low, high = -np.ones(env.action_size, np.float32), np.ones(env.action_size, np.float32)
  action = specs.BoundedArray((env.action_size,), np.float32, low, high)
  return library(plugin, action, reset, step, lambda inner: draw(inner[0]))

"""The contract of environments, on the host and on the device, played at random for some steps."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs

from ..api.contracts import EnvPlugin, FunctionalEnvironment
from ..api.timesteps import as_specified
from ..api.types import EnvSpec, PyTree, TimeStep
from ..engine import environments
from . import numbers
from .rows import Check, Failed, Found

STEPS, ENVS = 32, 2
SEEDS = (3, 5)


def spec_of(env: EnvPlugin) -> EnvSpec:
  """Returns the spec of an environment; one on the host has to be made for it.

  Raises:
    UserError: what the plugin gives is no such pool, or the machine cannot make it.
  """
  if isinstance(env, FunctionalEnvironment):
    return environments.functional(env).spec
  with contextlib.closing(environments.make(env, SEEDS[:1])) as pool:
    return pool.spec


def actions(spec: EnvSpec, rng: np.random.Generator, *shape: int) -> np.ndarray:
  """Draws actions [*shape, *action] at random."""
  action = spec.action
  if isinstance(action, specs.DiscreteArray):
    return rng.integers(action.num_values, size=(*shape, *action.shape)).astype(action.dtype)
  # From an interval without an end nothing can be drawn evenly.
  low, high = (np.clip(x, -1e3, 1e3) for x in (action.minimum, action.maximum))
  return rng.uniform(low, high, (*shape, *action.shape)).astype(action.dtype)


def environment(part: str, env: EnvPlugin) -> Iterator[Check]:
  """Checks of an environment plugin."""
  if isinstance(env, FunctionalEnvironment):
    yield from _on_device(part, env)
  else:
    yield from _on_host(part, env)


def _on_host(part: str, env: EnvPlugin) -> Iterator[Check]:
  @functools.cache
  def played(again: int = 0) -> tuple[TimeStep, int]:
    """Plays a pool: timesteps [STEPS + 1, B, ...], and how much its last steps traced."""
    del again  # an argument for the cache alone: another number plays anew, for `_equal`
    rng, seen, traced = np.random.default_rng(0), [], 0
    with contextlib.closing(environments.make(env, SEEDS)) as pool:
      seen.append(as_specified(pool.reset(), pool.spec))
      for n in range(STEPS):
        with numbers.traces() as count:
          pool.send(actions(pool.spec, rng, ENVS))
          seen.append(as_specified(pool.recv(), pool.spec))
        # What a pool compiles at its first steps does not count.
        traced += count() * (n >= STEPS // 2)
    return jax.tree.map(lambda *x: np.stack(x), *seen), traced

  def shapes() -> Found:
    # To play is to check: the pool raises at the first timestep that is not as its spec says.
    seen, _ = played()
    shape = seen.observation.shape[2:]
    return Found(note=f"{ENVS} x {STEPS} steps of {seen.observation.dtype} {list(shape)}")

  def once() -> Found:
    if played()[1]:
      raise Failed(f"it compiles something anew after {STEPS // 2} steps")
    return Found(note=f"{STEPS} steps")

  yield Check(part, "shapes", shapes)
  yield Check(part, "finite numbers", lambda: _finite(played()[0]))
  yield Check(part, "ends and starts", lambda: _starts(played()[0]))
  yield Check(part, "equal seeds", lambda: _equal(played()[0], played(1)[0]))
  yield Check(part, "one compilation", once)


def _on_device(part: str, env: FunctionalEnvironment) -> Iterator[Check]:
  @functools.cache
  def functions() -> Any:
    return environments.functional(env)

  @functools.cache
  def step() -> Any:
    # Compiled and mapped, as training has it: a branch of Python on a traced value fails here.
    def one(state: PyTree, action: Any) -> PyTree:
      state, timestep = functions().step(state, action)
      return state, as_specified(timestep, functions().spec, jnp.asarray)

    return jax.jit(jax.vmap(one))

  @functools.cache
  def begin() -> PyTree:
    def one(seed: Any) -> PyTree:
      state, timestep = functions().init(jax.random.key(seed))
      return state, as_specified(timestep, functions().spec, jnp.asarray)

    return jax.jit(jax.vmap(one))(jnp.asarray(SEEDS))

  @functools.cache
  def played(again: int = 0) -> tuple[TimeStep, list[int]]:
    """Plays environments: timesteps [STEPS + 1, B, ...], and how much each step traced."""
    del again
    rng, (state, timestep) = np.random.default_rng(0), begin()
    seen, counts = [timestep], []
    for _ in range(STEPS):
      with numbers.traces() as count:
        state, timestep = step()(state, actions(functions().spec, rng, ENVS))
      seen.append(timestep)
      counts.append(count())
    return jax.tree.map(lambda *x: np.stack(x), *jax.device_get(seen)), counts

  def shapes() -> Found:
    state, _ = begin()
    jax.eval_shape(step(), state, actions(functions().spec, np.random.default_rng(0), ENVS))
    spec = functions().spec.observation
    return Found(note=f"{ENVS} x {STEPS} steps of {spec.dtype} {list(spec.shape)}")

  yield Check(part, "shapes", shapes)
  yield Check(part, "finite numbers", lambda: _finite(played()[0]))
  yield Check(part, "ends and starts", lambda: _starts(played()[0]))
  yield Check(part, "equal seeds", lambda: _equal(played()[0], played(1)[0]))
  yield Check(part, "one compilation", lambda: numbers.traced_once(played()[1], part))


def _finite(seen: TimeStep) -> Found:
  return numbers.finite(seen._asdict(), "TimeStep")


def _starts(seen: TimeStep) -> Found:
  """Checks what timesteps [N, B] say of the starts of episodes."""
  if not np.all(seen.first[0]):
    raise Failed("timestep.first is not True in the timesteps that it starts with")
  for name, wanted in (("reward", 0), ("discount", 1)):
    if np.any(getattr(seen, name)[seen.first] != wanted):
      raise Failed(f"a FIRST timestep has another {name} than {wanted}")
  if np.any((seen.discount < 0) | (seen.discount > 1)):
    raise Failed("a discount is not from 0 to 1; gamma is no part of it")
  if np.any(seen.first[1:] & seen.first[:-1]):
    raise Failed("an episode has no transition: FIRST follows FIRST")
  return Found(note=f"{int(np.sum(seen.first[1:]))} episodes ended")


def _equal(seen: TimeStep, again: TimeStep) -> Found:
  for name, x in seen._asdict().items():
    if not np.array_equal(x, getattr(again, name)):
      raise Failed(f"equal seeds and actions gave another TimeStep.{name}")
  return Found(note="the same stream")

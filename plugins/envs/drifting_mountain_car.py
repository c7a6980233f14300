"""Drifting mountain car: seen through features that drift, beside features that are noise."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs

from ...core.api import (
  Array,
  Count,
  Environment,
  EnvSpec,
  Fraction,
  FunctionalPool,
  Native,
  Natural,
  TimeStep,
  register,
)
from ..networks._tiles import active_tiles, binary_features
from .mountain_car import GREATEST, LEAST, MAX_SPEED, Cut, MountainCar
from .mountain_car import State as Car

TILINGS, TILES = 16, 10
INFORMATIVE = TILINGS * TILES**2
FAR = 2**30  # the longest gap drawn at once; with the draws of a step it fits an int32


class State(NamedTuple):
  """The car, the signs of its features, and when the next one flips."""

  car: Car
  signs: Array  # [INFORMATIVE] float32, 1 or -1
  until: Array  # [] int32, draws, one a feature and step, that come before the one that matters
  flips: Array  # [] bool: that one flips its feature; else the gap was FAR, and one draws on there
  key: Array


@register("env", "drifting_mountain_car")
@dataclasses.dataclass(frozen=True)
class DriftingMountainCar:
  """Mountain car of the Metatrace paper, section 5.2: drifting tile features and noise.

  An active tile shows as 1 or as -1; at every step each of the 1600 features flips its sign for
  good with probability `drift`. Behind them are `noise` features, each 1 with probability 1/2 and
  else 0, anew at every step. `cut` and `max_steps` are those of `mountain_car`.
  """

  drift: Fraction = 6e-6
  noise: Natural = 32
  cut: Cut = "terminal"
  max_steps: Count = 200

  @property
  def spec(self) -> EnvSpec:
    """Observations [1600 + noise] float32, and an action of three."""
    observation = specs.Array((INFORMATIVE + self.noise,), np.float32)
    return EnvSpec(observation, self._car.spec.action)

  def init(self, key: Array) -> tuple[State, TimeStep]:
    """Starts the first episode: the state, and its FIRST timestep with features [1600 + noise]."""
    car_key, gap_key, key = jax.random.split(key, 3)
    car, timestep = self._car.init(car_key)
    signs = jnp.ones(INFORMATIVE, jnp.float32)
    key, noise = _noise(key, self.noise)
    gap, flips = _gap(gap_key, self.drift)
    # The gap counts draws from the first on, `until` those that come before it.
    state = State(car, signs, gap - 1, flips, key)
    return state, _observe(state, timestep, noise)

  def step(self, state: State, action: Array) -> tuple[State, TimeStep]:
    """Makes a step with an action []; also at a reset every sign may flip, and noise is drawn."""
    car, timestep = self._car.step(state.car, action)
    state = _flip(state._replace(car=car), self.drift)
    key, noise = _noise(state.key, self.noise)
    state = state._replace(key=key)
    return state, _observe(state, timestep, noise)

  def make(self, seeds: tuple[int, ...]) -> Environment:
    """Makes a pool on the host, for other runtimes than `@runs()`."""
    return FunctionalPool(self, seeds)

  def native(self) -> Native:
    """Returns the form in C++."""
    settings = self.cut == "terminal", self.max_steps, self.drift, self.noise
    return Native(Path(__file__).with_name("_cars.h"), "DriftingMountainCar", settings)

  @property
  def _car(self) -> MountainCar:
    return MountainCar(self.cut, self.max_steps)


def _observe(state: State, timestep: TimeStep, noise: Array) -> TimeStep:
  """Returns the car's timestep with signed tiles and noise as its observation, [1600 + noise]."""
  low, high = jnp.array([[LEAST, -MAX_SPEED], [GREATEST, MAX_SPEED]], jnp.float32)
  active = active_tiles((timestep.observation - low) / (high - low), TILINGS, TILES)
  tiles = binary_features(active, TILINGS, TILES**2, jnp.float32)
  return timestep._replace(observation=jnp.concatenate([state.signs * tiles, noise]))


def _noise(key: Array, size: int) -> tuple[Array, Array]:
  """Draws the next key, and `size` fair bits as float32 [size]: by one call of the generator."""
  kind = jax.random.key_impl(key)
  (own,) = jax.random.key_data(key).shape  # words of a key: 2 of threefry's, 4 of rbg's
  words = jax.random.bits(key, (own + -(-size // 32),), jnp.uint32)
  bits = words[own:, None] >> jnp.arange(32, dtype=jnp.uint32)[None] & 1
  return jax.random.wrap_key_data(words[:own], impl=kind), bits.reshape(-1)[:size].astype(
    jnp.float32
  )


def _flip(state: State, drift: Array | float) -> State:
  """Flips each sign with probability `drift`.

  Draws of one feature after another, step after step, are independent, so the gaps between those
  that flip are geometric. Drawing the gaps costs next to nothing: at the drifts of the paper one
  step in sixty flips a sign.
  """
  size = state.signs.size

  def flip(state: State) -> State:
    gap_key, key = jax.random.split(state.key)
    flipped = (jnp.arange(size) == state.until) & state.flips
    gap, flips = _gap(gap_key, drift)
    signs = jnp.where(flipped, -state.signs, state.signs)
    return State(state.car, signs, state.until + gap, flips, key)

  state = jax.lax.while_loop(lambda state: state.until < size, flip, state)
  return state._replace(until=state.until - size)


def _gap(key: Array, drift: Array | float) -> tuple[Array, Array]:
  """Draws the number of draws to the next flip, [] int32, from 1 to FAR; and whether it flips, [].

  Args:
    key: of the draw.
    drift: the probability of a flip, [].
  """
  # Inverse transform of the geometric distribution: ceil(log(1 - u) / log(1 - p)). A drift of 0
  # makes 0 / 0 or infinity: FAR. FAR draws without a flip are drawn again from there, without bias.
  u = jax.random.uniform(key, (), jnp.float32)
  trials = jnp.ceil(jnp.log1p(-u) / jnp.log1p(-jnp.asarray(drift)))
  trials = jnp.clip(jnp.nan_to_num(trials, nan=FAR), 1, FAR)
  return trials.astype(jnp.int32), trials < FAR

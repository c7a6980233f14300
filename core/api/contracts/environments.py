"""The contracts of environments, on the host and on the device."""

from typing import Protocol, runtime_checkable

from ..types import Array, EnvSpec, PyTree, TimeStep


@runtime_checkable
class Environment(Protocol):
  """A pool of `B` auto-resetting environments on the host; NumPy in, NumPy out.

  `reset` is called once, first. After that every `send(actions)` is followed by one `recv()`;
  between the two the pool steps in the background. After a step that ended an episode the next one
  ignores its action and returns the FIRST observation of a new episode, with reward 0 and discount
  1. Rewards are raw. Arrays returned are never written to again. Core takes them in the dtypes of
  `TimeStep` and of `spec`, whatever theirs are.

  `stagger` asks environments whose episodes are all of one length to start at different steps of
  their first episode, so that a batch is not forever at the same point of it; others ignore it.
  """

  spec: EnvSpec
  num_envs: int

  def reset(self, stagger: bool = False) -> TimeStep:
    """Starts an episode in every environment; its FIRST timesteps, [B, ...]."""
    ...

  def send(self, actions: Array) -> None:
    """Starts a step with actions [B, *action]; need not wait for it."""
    ...

  def recv(self) -> TimeStep:
    """Waits for the step under way; its timesteps, [B, ...]."""
    ...

  def close(self) -> None:
    """Frees threads, processes and memory."""
    ...


class EnvPlugin(Protocol):
  """Kind `env`: describes environments, and makes pools of them."""

  def make(self, seeds: tuple[int, ...]) -> Environment:
    """Makes a pool of one environment a seed.

    Pools given disjoint seeds share no randomness; equal seeds and actions give equal streams.
    """
    ...


@runtime_checkable
class DrawnEnvironment(Environment, Protocol):
  """A pool whose first environment can be drawn."""

  def draw(self) -> Array:
    """Returns the last timestep's picture of environment 0, uint8 [height, width, 3].

    Raises:
      UserError: this task has no pictures.
    """
    ...


@runtime_checkable
class DrawablePlugin(EnvPlugin, Protocol):
  """An `EnvPlugin` that can draw its environments: what videos are made of."""

  def make_drawn(self, seeds: tuple[int, ...]) -> DrawnEnvironment:
    """Makes the same pool as `make`, with pictures.

    Raises:
      UserError: this machine cannot draw.
    """
    ...


@runtime_checkable
class ScoredPlugin(EnvPlugin, Protocol):
  """An `EnvPlugin` with published scores, by which returns of different tasks compare.

  A normalised score is (return - low) / (high - low).
  """

  @property
  def reference_scores(self) -> tuple[float, float]:
    """The scores that normalise to 0 and to 1: low and high, of raw returns."""
    ...


@runtime_checkable
class FunctionalEnvironment(Protocol):
  """One environment as pure functions, for agents that act, step and learn on the device.

  The stream of timesteps is that of `Environment`, without the batch axis: after a step that ended
  an episode, the next one ignores its action and returns the FIRST of a new one. All that is drawn
  follows from the key, so equal keys and actions give equal streams.
  """

  @property
  def spec(self) -> EnvSpec:
    """Shapes, dtypes and bounds, without a batch axis."""
    ...

  def init(self, key: Array) -> tuple[PyTree, TimeStep]:
    """Starts the first episode; the state, and its FIRST timestep, [...] without a batch axis."""
    ...

  def step(self, state: PyTree, action: Array) -> tuple[PyTree, TimeStep]:
    """Makes one step with an action [*action]; the new state and timestep, [...]."""
    ...

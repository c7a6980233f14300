"""Contracts of online learners: step-size tuners, and iterations that a meta-optimiser fuses.

Only authors of such plugins read this; `contracts` is for all.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from .contracts import AgentFns, FunctionalEnvironment
from .types import Array, HeadOut, LearnerState, Metrics, PyTree, Scalar, TimeStep


class SparseNetwork(NamedTuple):
  """A `Network` linear in F binary features, of which one in each of K groups of F / K is active.

  Its parameters are {"value": [P, F], "policy": [P, A, F]}. It may be built in place of a Network.
  """

  init: Callable[[Array], PyTree]  # these three as in Network
  initial_state: Callable[[int], PyTree]
  unroll: Callable[[PyTree, TimeStep, PyTree, Array], tuple[HeadOut, PyTree]]
  active: Callable[[Array], Array]  # observation [..., *shape] -> the active features [..., K]


class TunerInputs(NamedTuple):
  """Inputs of a step-size tuner: one step of AC(lambda); all `N` parameters as one vector."""

  delta: Array  # [] TD error, R + gamma d' V(S') - V(S)
  decay: Array  # [] gamma lambda; 0 at the first step of an episode, which so resets every trace
  trace: Array  # [N] z, with this step's grad U in it
  trace_tm1: Array  # [N] z after the previous step; 0 at the first step of an episode
  grad_u: Array  # [N] grad U, U = V(S) + 1/2 log pi(A|S)
  grad_v: Array  # [N] grad V(S)
  grad_next: Array  # [N] gamma d' grad V(S')
  bonus: Array  # [N] psi grad H, of the entropy regulariser

  @property
  def grad_delta(self) -> Array:
    """The full gradient of delta, gamma d' grad V(S') - grad V(S), [N]."""
    return self.grad_next - self.grad_v


class Tuner(Protocol):
  """Kind `tuner`: the step sizes alpha of an online learner, one or one a parameter.

  The learner then makes the step w <- w + alpha (trace delta + bonus). Whether it sees parameters
  of one run or is mapped over many, and whether fields are numbers or traced, a tuner cannot tell.
  """

  def init(self, alpha: Scalar, params: Array) -> PyTree:
    """Returns the state before the first step, for initial step size `alpha`, parameters [N]."""
    ...

  def update(self, state: PyTree, x: TunerInputs) -> tuple[PyTree, Array]:
    """Adapts the step sizes; the new state, and alpha of this step, [] or [N]."""
    ...

  def beta(self, state: PyTree) -> Array:
    """Returns the log of the last alpha, [] or [N]."""
    ...

  def metrics(self, state: PyTree) -> Metrics:
    """Returns what is worth logging, [] each: the effective step size u, v, ..."""
    ...


class Dots(NamedTuple):
  """Inputs of a tuner of one step size for all parameters: dot products over the parameters."""

  delta: Array  # [] as in TunerInputs
  decay: Array  # [] as in TunerInputs
  u_h: Array  # [] <grad U | h>
  bonus_h: Array  # [] psi <grad H | h>
  trace_h: Array  # [] <z | h>
  trace_delta: Array  # [] <z | grad delta>
  u_u: Array  # [] |grad U|^2


@runtime_checkable
class ScalarTuner(Tuner, Protocol):
  """A tuner whose only knowledge of the parameters is `Dots`, with the h that all of them share:

      h <- h + alpha (z (delta + <grad delta | h>) + psi grad H)

  Its state is a NamedTuple of `rule`, scalars, and `h`, [N] or () where nothing depends on it. So
  the learner may keep z and h in any form whose dot products it can take.
  """

  def init_rule(self, alpha: Scalar, like: Array) -> PyTree:
    """Returns the scalars before the first step, [] each, in the dtype of `like`."""
    ...

  def adapt(self, rule: PyTree, x: Dots) -> tuple[PyTree, Array]:
    """Adapts the step size; the new scalars, and alpha of this step, [] each."""
    ...


class RunState(NamedTuple):
  """Everything that one run changes as it acts and learns in B functional environments."""

  learner: LearnerState
  env: PyTree  # [B, ...]
  timestep: TimeStep  # [B, ...] the last one
  core_state: PyTree  # [B, ...]
  returns: Array  # [B] float32, raw, of the episode so far
  lengths: Array  # [B] int32, transitions of the episode so far
  finished: Array  # [] int32, how many episodes have finished
  env_steps: Array  # [] int32, reset steps included
  key: Array  # that actions are drawn with
  acting: PyTree = ()  # ActorParams [lag, ...] of the last updates, where the actor lags behind


class Ends(NamedTuple):
  """Ends of episodes, step by step; returns and lengths are 0 where none ended."""

  ended: Array  # [T, B] bool
  episode_return: Array  # [T, B] float32
  length: Array  # [T, B] int32


Iteration = Callable[[RunState], tuple[RunState, Ends, Metrics]]  # metrics [] of its last update


@runtime_checkable
class FusesIterations(Protocol):
  """Optional part of a meta-optimiser that can act, step and learn in a faster form of its own."""

  def fused(
    self, fns: AgentFns, env: FunctionalEnvironment, active: Callable[[RunState], Array]
  ) -> Iteration | None:
    """Returns a function that makes several iterations of a run, equal to float tolerance.

    Args:
      fns: the agent.
      env: the environment.
      active: says of a run whether it still goes on, [] bool; it stands still from then on.

    Returns:
      The function, or None where there is no faster form.
    """
    ...


def unless_ended(going: Array, new: tuple[PyTree, Ends], old: PyTree) -> tuple[PyTree, Ends]:
  """Keeps a step of a run that was still going; else the run stays as it was, and nothing ended.

  Args:
    going: [] bool.
    new: the state after the step, [...], and the episodes that ended in it.
    old: the state before it.
  """
  state = jax.tree.map(lambda new, old: jnp.where(going, new, old), new[0], old)
  return state, jax.tree.map(lambda x: jnp.where(going, x, jnp.zeros_like(x)), new[1])


def count(state: RunState, timestep: TimeStep) -> tuple[RunState, Ends]:
  """Adds a new timestep to the return and length of each environment's episode.

  Args:
    state: of the run, [B, ...].
    timestep: the new one, [B, ...]; where FIRST, an episode ended with the one before.

  Returns:
    The new state, and the episodes that ended, [B].
  """
  first = timestep.first
  ends = Ends(first, jnp.where(first, state.returns, 0.0), jnp.where(first, state.lengths, 0))
  state = state._replace(
    returns=jnp.where(first, 0, state.returns + timestep.reward),
    lengths=jnp.where(first, 0, state.lengths + 1),
    finished=state.finished + jnp.sum(first, dtype=jnp.int32),
    env_steps=state.env_steps + jnp.int32(first.size),
  )
  return state, ends

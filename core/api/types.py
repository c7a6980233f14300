"""The data that flows between the parts: NamedTuples, time-major, shapes in the docstrings.

Notation: `T` transitions of a trajectory, `B` environments, `P` heads, `A` distribution parameters.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from dm_env import specs

if TYPE_CHECKING:  # commands that only read files do not wait for JAX
  import jax

  Array = jax.Array | np.ndarray
else:
  Array = Any

Scalar = float | Array  # [], a configured number or a tuned value
Device = Any  # a jax.Device, which type checkers do not take for a type
PyTree = Any
Metrics = dict[str, Array]

BINS = 64  # of a histogram that is logged
OF_CORE = {  # what rows hold beside the metrics of plugins
  *("failure", "updates", "policy_lag", "env_steps", "wall_time", "steps_per_second"),
  *("episodes", "episode_return", "episode_length", "queue_wait", "env_wait", "act_time"),
}


class Histogram(NamedTuple):
  """Counts of values in N bins, in NumPy's form; JAX arrays on the device, NumPy's on the host."""

  counts: Any  # [N] values in each bin
  edges: Any  # [N + 1] of the bins, ascending; not finite where a value was not


Described = dict[str, Array | Histogram]


class EnvSpec(NamedTuple):
  """Specs of observations and actions, of one environment (no batch axis)."""

  observation: specs.Array
  action: specs.DiscreteArray | specs.BoundedArray


class TimeStep(NamedTuple):
  """dm_env semantics, batched: reward and discount LED TO this observation.

  A transition t -> t+1 is valid unless `first[t+1]`: EnvPool ignores the action of its reset step.
  """

  observation: Array  # [..., B, *observation]
  reward: Array  # [..., B] float32, raw (never clipped); 0 where first
  discount: (
    Array  # [..., B] float32, without gamma: 0 at termination, 1 otherwise and at truncation
  )
  first: Array  # [..., B] bool, this observation starts an episode


class Trajectory(NamedTuple):
  """A batch as the learner gets it: `T` transitions of `B` environments."""

  timestep: TimeStep  # [T+1, B, ...] the last one has no action yet, and bootstraps
  action: Array  # [T, B, ...] the pre-squash sample
  behaviour: Array  # [T, B, A] parameters of the distribution the action was sampled from
  core_state: PyTree  # [B, ...] recurrent state with which timestep 0 was seen
  params_version: Array  # [T, B] int32, number of updates behind the parameters that acted


BATCH_AXES = (1, 1, 1, 0, 1)  # of a Trajectory's fields


class HeadOut(NamedTuple):
  """Outputs of a network for each timestep, one row a head."""

  policy: Array  # [P, T+1, B, A] distribution parameters
  value: Array  # [P, T+1, B]


class CorrectorInputs(NamedTuple):
  """Inputs of an off-policy corrector: one head's. Everything is stopped by core already."""

  log_is: Array  # [T, B] log pi(a_t|x_t) - log mu(a_t|x_t), capped above
  value: Array  # [T+1, B] V(x_t)
  reward: Array  # [T, B] r_{t+1}
  discount: Array  # [T, B] d_{t+1}, without gamma
  mask: Array  # [T, B] m_{t+1}: 0 where the transition is EnvPool's reset step


class Targets(NamedTuple):
  """Targets of a corrector, for value and policy."""

  value: Array  # [T, B] v_t, the regression target of V(x_t)
  advantage: Array  # [T, B] rho_t (r_{t+1} + gamma d_{t+1} v_{t+1} - V(x_t))


class LossInputs(NamedTuple):
  """Inputs of a loss term: one head's, of transitions only, so every array starts [T, B]."""

  policy: Array  # [T, B, A] distribution parameters of pi(.|x_t)
  value: Array  # [T, B] V(x_t)
  targets: Targets  # [T, B]
  action: Array  # [T, B, ...]
  behaviour: Array  # [T, B, A] distribution parameters of mu(.|x_t)
  reference: Array  # [T, B, A] mu in the inner loss; the policy before the update in the outer loss
  reward: Array  # [T, B] r_{t+1} as learned from (clipped if the agent clips)
  discount: Array  # [T, B] d_{t+1}, without gamma
  distribution: Any  # contracts.Distribution: log_prob, entropy, kl of such parameters


class ActorParams(NamedTuple):
  """All that an actor needs in order to act: published by the learner after every update."""

  params: PyTree
  gamma: Array  # [P + E + C] each head's discount, for networks that embed it; see AgentFns


class LearnerState(NamedTuple):
  """Everything that an update changes and a checkpoint must hold."""

  params: PyTree
  opt_state: PyTree
  meta_state: PyTree
  step: Array  # [] int32, updates made
  key: Array  # typed PRNG key for meta-optimisers that draw
  failure: Array  # [] int32, -1, or what was not finite first, see `api.failures`


class Episode(NamedTuple):
  """One finished episode."""

  env_steps: int  # env steps of the whole run when it ended
  episode_return: float  # sum of raw rewards
  length: int  # transitions
  run: int | None = None  # number of the independent run it is of, where there are several

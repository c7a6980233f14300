"""Policies for anybody's loop: a trained agent that is shown observations and says what to do."""

import contextlib

import jax
import numpy as np

from ..agent.functions import Functions
from ..api.errors import UserError
from ..api.types import ActorParams, Array, EnvSpec, TimeStep
from ..machine.seeding import evaluation_seeds
from ..record.workdir import Workdir
from .evaluate import chosen, restore
from .playing import acting


class Policy:
  """A policy that acts as the agent does in an evaluation; call `reset`, then `act` once a step.

  All that it draws follows from the seed: shown the same, it does the same. It carries the
  recurrent state from step to step, and clears it where an episode starts.
  """

  def __init__(
    self,
    spec: EnvSpec,
    agent: Functions,
    actor_params: ActorParams,
    unroll_length: int,
    greedy: bool = False,
    seed: int = 0,
  ):
    """Takes what `playing.acting` does; `seed` is that of the first `reset` that is given none."""
    self.spec = spec  # what it is shown and what it returns, without a batch axis
    self._agent, self._actor_params = agent, actor_params
    self._unroll_length, self._greedy = unroll_length, greedy
    self._seed, self._batch, self._first = seed, None, True
    self._act = None

  def reset(self, batch: int | None = None, seed: int | None = None) -> None:
    """Forgets what it was shown: the next observation is the first of an episode.

    Args:
      batch: B, how many environments it acts for; None for one, without a batch axis.
      seed: of what it will draw; None for the one after that of the last `reset`.

    Raises:
      UserError: `batch` is less than 1.
    """
    if batch is not None and batch < 1:
      raise UserError(f"batch = {batch} must be at least 1, or None for no batch axis.")
    self._batch, self._first = batch, True
    key = jax.random.key(self._seed if seed is None else seed)
    self._seed = (self._seed if seed is None else seed) + 1
    step = (self._agent, self._actor_params, batch or 1, self._unroll_length, key, self._greedy)
    self._act = acting(*step)

  def act(self, observation: Array | TimeStep, first: bool | Array | None = None) -> np.ndarray:
    """Returns the action to send to the environment.

    Args:
      observation: [*observation], or after `reset(B)` [B, *observation]; or a TimeStep of these,
        for networks that look at more of it.
      first: whether it starts an episode, [] or [B]; None: right after `reset` it does, later it
        does not. A TimeStep says so itself.

    Returns:
      [*action] or [B, *action].

    Raises:
      UserError: there was no `reset`, or the observation is not of the shape or type of `spec`, or
        holds an integer that this type does not.
    """
    if self._act is None:
      raise UserError("call reset() of the policy before its first act().")
    if not isinstance(observation, TimeStep):
      # Reward 0 and discount 1, as where an episode starts: an observation alone tells neither.
      starts = self._first if first is None else first
      observation = TimeStep(observation, np.zeros(()), np.ones(()), np.asarray(starts))
    timestep = _batched(observation, self.spec, self._batch)
    self._first = False
    action = self._act(timestep)
    return action[0] if self._batch is None else action


def _batched(shown: TimeStep, spec: EnvSpec, batch: int | None) -> TimeStep:
  """Returns what was shown as the agent takes it, [B, ...]; what is [] holds of all environments.

  Raises:
    UserError: it is not of the shape or type that the agent takes, or holds an integer that this
      type does not.
  """
  lead, wanted = () if batch is None else (batch,), spec.observation
  observation = np.asarray(shown.observation)
  fits = np.can_cast(observation.dtype, wanted.dtype, "same_kind")
  if observation.shape != lead + wanted.shape or not fits:
    raise UserError(
      f"the policy was shown {observation.dtype}{list(observation.shape)}; after reset({batch}) it "
      f"takes {wanted.dtype}{list(lead + wanted.shape)}, as it was trained with."
    )

  def per_env(name: str, dtype: type) -> np.ndarray:
    value = np.asarray(getattr(shown, name), dtype)
    if value.shape not in ((), lead):
      raise UserError(
        f"{name} has shape {list(value.shape)}; after reset({batch}) it is [] or {list(lead)}."
      )
    return np.broadcast_to(value, lead).reshape(batch or 1)

  return TimeStep(
    _cast(observation, wanted.dtype).reshape(batch or 1, *wanted.shape),
    per_env("reward", np.float32),
    per_env("discount", np.float32),
    per_env("first", bool),
  )


def _cast(observation: np.ndarray, dtype: np.dtype) -> np.ndarray:
  """Returns an observation, [...], in the type that the agent takes, of the same kind.

  Raises:
    UserError: it holds an integer that this type does not, which NumPy would wrap.
  """
  taken = observation.astype(dtype)
  # Where every number of the one type is one of the other there is nothing to compare.
  may_wrap = np.issubdtype(dtype, np.integer) and not np.can_cast(observation.dtype, dtype)
  if may_wrap and (wrapped := observation[taken != observation]).size:
    holds = np.iinfo(dtype)
    raise UserError(
      f"the policy was shown {wrapped[0]}; it takes {holds.dtype}, numbers from {holds.min} to "
      f"{holds.max}, as it was trained with."
    )
  return taken


def policy_of(
  workdir: Workdir, step: int | None = None, greedy: bool = False, seed: int = 0
) -> Policy:
  """Loads the agent of a checkpoint, on the first device.

  Of many runs it is the first, of a population the best.

  Args:
    workdir: of the run.
    step: the update whose checkpoint it is; None for the newest whole one.
    greedy: take the mode of the policy, not a sample.
    seed: of what it draws after its first `reset`.

  Raises:
    UserError: there is no run or no whole checkpoint.
  """
  found = chosen(workdir, step)
  experiment = found.experiment
  # A plugin tells its spec through a pool alone: EnvPool knows it once it has made one.
  with contextlib.closing(experiment.env.make(evaluation_seeds(0, 1, workdir.env_seeds()))) as pool:
    spec = pool.spec
  agent = Functions(experiment.agent, spec, experiment.total_updates)
  _, actor_params = restore(workdir, step, found, agent, spec)
  return Policy(spec, agent, actor_params, experiment.unroll_length, greedy, seed)

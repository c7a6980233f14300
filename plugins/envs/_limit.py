"""A time limit that does not hide how an episode ended.

Where a task ends on the last step that its limit allows, EnvPool says `truncated` and nothing else,
so that learning would bootstrap from behind the end. So EnvPool is given a limit that is one step
longer, and episodes are cut here.
"""

from typing import Any

import numpy as np

from ...core.api import Array

Step = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]


class Limited:
  """A synchronous EnvPool of the gymnasium type, its observations one array.

  Its stream is that of an EnvPool of this limit, but for what `terminated` says on the last step.
  """

  def __init__(self, pool: Any, limit: int):
    """Takes a new pool, whose own limit is `limit` + 1."""
    self._pool, self._limit = pool, limit
    self.spec, self.render = pool.spec, pool.render
    self.observation_space, self.action_space = pool.observation_space, pool.action_space

  def reset(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Starts an episode in every environment; observations [B, ...] and EnvPool's info, [B]."""
    observation, info = self._pool.reset()
    self._cut = np.zeros(len(observation), bool)
    return observation, info

  def send(self, actions: Array) -> None:
    """Starts a step with actions [B, ...]; what was cut begins an episode instead."""
    # EnvPool would go on with an episode that we cut: those are reset by name, and not stepped.
    self._begun = np.flatnonzero(self._cut).astype(np.int32)
    self._stepped = np.flatnonzero(~self._cut).astype(np.int32)
    if len(self._begun):
      self._started = self._pool.reset(self._begun)
    if len(self._stepped):
      self._pool.send(actions[self._stepped], self._stepped)

  def recv(self) -> Step:
    """Waits for the step: observation [B, ...], reward, terminated, truncated [B], and info."""
    observation, reward, terminated, truncated, info = self._received()
    # EnvPool's limit is one later, so `terminated` on the last step allowed is the task's word.
    self._cut = (info["elapsed_step"] >= self._limit) & ~terminated
    return observation, reward, terminated, truncated | self._cut, info

  def _received(self) -> Step:
    """Merges what was stepped with what began an episode, in the order of environments."""
    if not len(self._begun):
      return self._pool.recv()
    observation, info = self._started
    # What began has no reward yet and has not ended, in the form that EnvPool gives of a step.
    none = np.zeros(len(observation), bool)
    began = (observation, none.astype(np.float32), none, none, info["elapsed_step"])
    if not len(self._stepped):
      return (*began[:4], info)
    *stepped, info = self._pool.recv()
    stepped.append(info["elapsed_step"])
    # Sorted by the number of its environment, each row is back in its place.
    order = np.argsort(np.concatenate([self._begun, self._stepped]))
    merged = [np.concatenate(x)[order] for x in zip(began, stepped, strict=True)]
    observation, reward, terminated, truncated, elapsed = merged
    return observation, reward, terminated, truncated, {"elapsed_step": elapsed}

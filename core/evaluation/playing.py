"""Play: full episodes of an agent that does not learn, and a summary of them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ..agent import functions
from ..agent.functions import Functions
from ..api.contracts import Environment, EnvPlugin, ScoredPlugin
from ..api.timesteps import as_specified
from ..api.types import ActorParams, Array, Episode, TimeStep
from ..record.episodes import EpisodeCounter
from .scores import normalised

Watch = Callable[[TimeStep, int], None]
# is told every timestep, the first one too, and how many episodes have finished by then

MAX_ENVS = 16  # in one pool


class Played(NamedTuple):
  """The episodes that were played, and those that were not."""

  episodes: list[Episode]  # those that were cut, too
  cut: int  # how many episodes did not end
  missing: int  # episodes that were not begun for that

  def note(self, limit: str) -> str:
    """Says in a line what was cut by the `limit`, such as '--max-steps 100'; '' if nothing was."""
    if not self.cut:
      return ""
    note = (
      f"{self.cut} of {len(self.episodes)} episodes did not end within {limit}: cut there, with "
      "the return so far"
    )
    if self.missing:
      note += f". {self.missing} more were not played: what does not end cannot be begun anew"
    return note


def play(
  agent: Functions,
  actor_params: ActorParams,
  pool: Environment,
  episodes: int,
  max_steps: int,
  unroll_length: int,
  key: Array,
  greedy: bool = False,
  watchers: Sequence[Watch] = (),
) -> Played:
  """Plays full episodes with the agent's behaviour policy.

  How many each environment contributes is settled beforehand. (The first `episodes` to finish in a
  batch would be the short ones.) One whose episode does not end contributes that as it is after
  `max_steps`, and no more.

  Args:
    agent: acts.
    actor_params: on the device that acts; its discounts are [P].
    pool: new; its timesteps are [B, ...] with B at most `episodes`.
    episodes: how many to play.
    max_steps: of an episode.
    unroll_length: a random head is drawn anew after so many steps, as in training.
    key: all that is drawn follows from it.
    greedy: take the mode, not a sample.
    watchers: what one of them raises ends the play.

  Returns:
    The episodes, in the order in which they ended.
  """
  left = shares(episodes, pool.num_envs)
  counter = EpisodeCounter(pool.num_envs)
  act = acting(agent, actor_params, pool.num_envs, unroll_length, key, greedy)
  timestep = as_specified(pool.reset(), pool.spec)
  played: list[Episode] = []
  cut = missing = 0
  for watch in watchers:
    watch(timestep, 0)
  t = 0
  while left.any():
    pool.send(act(timestep))
    timestep = as_specified(pool.recv(), pool.spec)
    t += 1
    too_long = ~timestep.first & (counter.lengths == max_steps)
    # FIRST: the episode ended with the step before, so what was counted [B] is whole.
    # [2, B]: who ended, and who takes too long, of environments that have episodes left to play.
    ended, endless = (left > 0) & [timestep.first, too_long]
    for i in np.flatnonzero(ended | endless):
      played.append(Episode(t * pool.num_envs, *counter.so_far(i)))
    left -= ended | endless
    cut, missing = cut + int(endless.sum()), missing + int(left[endless].sum())
    left[endless] = 0  # an environment cannot be reset by us: it would go on with this episode
    # After the episodes were taken: where FIRST, it sets the counts back to 0.
    counter.add(timestep)
    for watch in watchers:
      watch(timestep, len(played))
  return Played(played, cut, missing)


def shares(episodes: int, num_envs: int) -> np.ndarray:
  """Deals episodes out evenly, the remainder to the first environments: [num_envs]."""
  return episodes // num_envs + (np.arange(num_envs) < episodes % num_envs)


def acting(
  agent: Functions,
  actor_params: ActorParams,
  num_envs: int,
  unroll_length: int,
  key: Array,
  greedy: bool = False,
) -> Callable[[TimeStep], np.ndarray]:
  """Returns a function from timesteps [B, ...] of `num_envs` environments to the actions to send.

  It carries the recurrent state, and counts the steps: what it draws follows from the key. The
  other arguments are those of `play`.
  """
  core_state, t = agent.network.initial_state(num_envs), 0

  def act(timestep: TimeStep) -> np.ndarray:
    nonlocal core_state, t
    # As in training: a key a trajectory, so that a random head acts as long as it did there.
    trajectory = jax.random.fold_in(key, t // unroll_length)
    step = (timestep, core_state, trajectory, np.int32(t % unroll_length))
    action, _, _, core_state = functions.act(agent, actor_params, *step, greedy=greedy)
    t += 1
    return np.asarray(action)

  return act


def summary(env: EnvPlugin, played: Played) -> dict[str, Any]:
  """Summarises episodes: statistics of raw returns, and the mean by published scores, if any."""
  returns = np.array([episode.episode_return for episode in played.episodes])
  result = {
    "mean": float(returns.mean()),
    "std": float(returns.std()),
    "min": float(returns.min()),
    "max": float(returns.max()),
    "episodes": len(played.episodes),
    "cut": played.cut,
    "length": float(np.mean([episode.length for episode in played.episodes])),
  }
  if isinstance(env, ScoredPlugin):
    result["normalized"] = normalised(result["mean"], env.reference_scores)
  return result

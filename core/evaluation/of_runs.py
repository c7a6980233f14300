"""Evaluation of many runs, as one program on the device: between iterations, the runs wait for it.

What `periodic` is to a single run. Every run is scored by what it is at that time, in environments
of its own seed, the same each time and none of those that it is trained in.
"""

import functools
import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..agent.functions import Functions
from ..api.contracts import FunctionalEnvironment
from ..api.online import RunState
from ..api.timesteps import as_specified
from ..api.types import Array, Episode, LearnerState, PyTree, TimeStep
from ..engine.actor import Interrupted
from ..experiment import Evaluation, Train
from ..machine.seeding import evaluation_seeds
from ..record.logging import Logger
from ..record.workdir import Workdir
from ..runs.device import Runs
from ..runs.iteration import actor_params
from ..runs.logs import RunLogs
from ..runs.rows import summary as of_all
from ..runs.settings import with_settings
from .playing import Played, play, shares, summary
from .scored import Scored, after
from .video import pool_of

BLOCK = 1000  # steps between looks of the host, which may ask to stop
STREAM = 0x5C04E  # folded into a run's key: environments and actions unlike those of training

_LOG = logging.getLogger(__name__)


class Playing(NamedTuple):
  """An evaluation of one run under way, in E environments that each play at most K episodes."""

  env: PyTree  # [E, ...]
  timestep: TimeStep  # [E, ...]
  core_state: PyTree  # [E, ...]
  so_far: Array  # [E] float32, raw return of the episode
  length: Array  # [E] int32, its transitions
  returns: Array  # [E, K] of the episodes that were played
  lengths: Array  # [E, K]
  played: Array  # [E] int32, how many
  cut: Array  # [E] bool, the last of them did not end
  going: Array  # [E] bool
  t: Array  # [] int32, steps


class Scores:
  """Scores all runs now and then, and logs it: the mean of the runs, and each in its own log.

  The video, if there is to be one, is of another episode of the first run.
  """

  def __init__(
    self,
    experiment: Train,
    workdir: Workdir,
    runs: Runs,
    logs: RunLogs,
    logger: Logger,
    stopping: Callable[[], bool],
  ):
    """Prepares the programs; compiled at their first call.

    Args:
      experiment: says when, and how much; its `evaluation` is given.
      workdir: of all runs together; it knows what of them was scored before.
      runs: that are scored.
      logs: the logs of each run.
      logger: the log of all runs together.
      stopping: says that the run is to stop; an evaluation under way is then given up, and made
        up for when the run goes on.
    """
    assert experiment.evaluation is not None
    self._env, self._evaluation = experiment.env, experiment.evaluation
    self._runs, self._logs, self._logger, self._stopping = runs, logs, logger, stopping
    # None until the first look, which tells whether the runs are resumed.
    self._due: int | None = None
    how = (self._evaluation, experiment.unroll_length)
    self._unroll_length, self._videos = experiment.unroll_length, workdir.videos
    self._scored = Scored(workdir.path)
    self._begin = runs.each(functools.partial(begin, self._evaluation))
    self._go_on = runs.each(functools.partial(go_on, *how))

  def look(self, states: RunState, env_steps: int, last: bool) -> None:
    """Scores the runs if it is time.

    Args:
      states: of the runs, [R', ...]; they stay as they are.
      env_steps: of all runs.
      last: training ends here, and what it ends with is scored.
    """
    steps = self._runs.of_each(states.env_steps)
    most, every = int(steps.max()), self._evaluation.every_env_steps
    if self._due is None:
      self._due = self._scored.due(every, env_steps, most)
    if (most >= self._due or last) and self._score(states, steps, env_steps):
      self._due = after(most, every)
      self._logs.flush()
      self._logger.flush()
      self._scored.write(env_steps, most)

  def _score(self, states: RunState, steps: np.ndarray, env_steps: int) -> bool:
    """Scores the runs and logs it; says whether it did, and was not asked to stop before."""
    began = time.monotonic()
    # Block by block, so that the host may give up in between: then nothing is logged.
    playing = self._begin()
    while not self._stopping():
      playing = self._go_on(states.learner, playing)
      if not np.any(self._runs.of_each(playing.going)):
        break
    else:
      return False
    # On the host: returns and lengths [R, E, K], and how many of the K were played, [R, E].
    found = jax.tree.map(self._runs.of_each, (playing.returns, playing.lengths, playing.played))
    cut = self._runs.of_each(playing.cut)
    played = [self._of_run(*x) for x in zip(*found, cut, strict=True)]
    # For the warning alone: `x[1:]` are the counts of cut and missing episodes of a run.
    whole = Played([e for x in played for e in x.episodes], *np.sum([x[1:] for x in played], 0))
    if note := whole.note(f"evaluation.max_steps = {self._evaluation.max_steps}"):
      _LOG.warning("of the evaluation at %s env steps, %s.", f"{env_steps:,}", note)
    rows = [summary(self._env, x) for x in played]
    seconds = {"seconds": time.monotonic() - began}
    for number, row in enumerate(rows):
      self._logs.log_evaluation({"env_steps": int(steps[number]), **row, **seconds}, number)
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    scores: dict[str, Any] = of_all(columns) | seconds
    self._logger.log_evaluation({"env_steps": env_steps, **scores})
    if self._evaluation.video:
      self._record(states.learner, env_steps)
    return True

  def _record(self, learner: LearnerState, env_steps: int) -> None:
    """Records an episode of the first run, unless asked to stop before its end."""
    members, evaluation = self._runs.members, self._evaluation
    own = {name: values[0] for name, values in members.settings.items()}
    agent, env = with_settings((members.agent, self._env), own)
    # Off the mesh, to one device: `play` acts on the host, for one run.
    first = jax.tree.map(lambda x: jax.device_put(x[0], jax.devices()[0]), learner)
    seed, path = members.seeds[0], self._videos / f"{env_steps}.mp4"
    how = (evaluation.max_steps, self._unroll_length, jax.random.key(seed), evaluation.greedy)
    try:
      with pool_of(env, evaluation_seeds(seed, 1, []), path) as (pool, watchers):
        fns = Functions(agent, pool.spec, members.total_updates)
        play(fns, actor_params(fns, first), pool, 1, *how, [self._watch, *watchers])
    except Interrupted:
      return
    self._logger.log_media("eval/video", path)

  def _watch(self, *_) -> None:
    if self._stopping():
      raise Interrupted

  def _of_run(
    self, returns: np.ndarray, lengths: np.ndarray, played: np.ndarray, cut: np.ndarray
  ) -> Played:
    """Collects the episodes of one run.

    Args:
      returns: of each environment's episodes, [E, K].
      lengths: theirs, [E, K].
      played: how many of the K there are, [E].
      cut: whether the last of them did not end, [E] bool.
    """
    mine = np.arange(returns.shape[1]) < played[:, None]
    ended = zip(returns[mine].tolist(), lengths[mine].tolist(), strict=True)
    episodes = [Episode(0, *episode) for episode in ended]
    return Played(episodes, int(cut.sum()), self._evaluation.episodes - len(episodes))


def begin(
  evaluation: Evaluation, fns: Functions, env: FunctionalEnvironment, seed: Array
) -> Playing:
  """Starts the first episodes of one run.

  Args:
    evaluation: says how many environments and episodes.
    fns: of the agent.
    env: one environment.
    seed: of the run, [].
  """
  share = shares(evaluation.episodes, evaluation.num_envs)  # [E]
  e, k = len(share), int(share.max())
  # Nothing but the seed decides: every evaluation plays in the same environments.
  keys = jax.random.split(_keys(seed)[0], e)
  env_state, timestep = jax.vmap(env.init)(keys)
  none = jnp.zeros(e, jnp.int32)
  return Playing(
    env=env_state,
    timestep=as_specified(timestep, env.spec, jnp.asarray),
    core_state=fns.network.initial_state(e),
    so_far=jnp.zeros(e, jnp.float32),
    length=none,
    returns=jnp.zeros((e, k), jnp.float32),
    lengths=jnp.zeros((e, k), jnp.int32),
    played=none,
    cut=none > 0,
    going=jnp.asarray(share > 0),
    t=jnp.int32(0),
  )


def go_on(
  evaluation: Evaluation,
  unroll_length: int,
  fns: Functions,
  env: FunctionalEnvironment,
  seed: Array,
  learner: LearnerState,
  playing: Playing,
) -> Playing:
  """Plays at most `BLOCK` steps more with one run's agent, by the rules of `playing.play`.

  Args:
    evaluation: says how long an episode may be, and whether actions are greedy.
    unroll_length: a random head is drawn anew after so many steps, as in training.
    fns: of the agent.
    env: one environment.
    seed: of the run, [].
    learner: the agent's state.
    playing: so far.
  """
  actor, key = actor_params(fns, learner), _keys(seed)[1]
  share = jnp.asarray(shares(evaluation.episodes, evaluation.num_envs))

  def step(x: Playing) -> Playing:
    # A key a trajectory, as in training: a random head acts through all of it.
    of_trajectory = jax.random.fold_in(key, x.t // unroll_length)
    sample, _, core_state = fns.act(
      actor, x.timestep, x.core_state, of_trajectory, x.t % unroll_length, evaluation.greedy
    )
    env_state, timestep = jax.vmap(env.step)(x.env, fns.distribution.to_action(sample))
    timestep = as_specified(timestep, env.spec, jnp.asarray)
    first = timestep.first
    # FIRST: the episode ended with the step before, so `so_far` and `length` are whole. One that is
    # too long is cut and its environment plays no more, as only an end lets it begin another.
    ended, endless = x.going & first, x.going & ~first & (x.length == evaluation.max_steps)
    # One-hot, [E, K]: where the episode that ended here goes. Traced code cannot append.
    number = jnp.arange(x.returns.shape[1])[None]
    here = (ended | endless)[:, None] & (number == x.played[:, None])
    played = x.played + (ended | endless)
    return Playing(
      env=env_state,
      timestep=timestep,
      core_state=core_state,
      so_far=jnp.where(first, 0, x.so_far + timestep.reward),
      length=jnp.where(first, 0, x.length + 1),
      returns=jnp.where(here, x.so_far[:, None], x.returns),
      lengths=jnp.where(here, x.length[:, None], x.lengths),
      played=played,
      cut=x.cut | endless,
      going=x.going & ~endless & (played < share),
      t=x.t + 1,
    )

  # Under `vmap` the loop goes on while any run of a chunk does; the others stay as they are.
  until = playing.t + BLOCK
  return jax.lax.while_loop(lambda x: jnp.any(x.going) & (x.t < until), step, playing)


def _keys(seed: Array) -> Array:
  """Returns the keys of environments and of actions, [2], for the seed of a run, []."""
  return jax.random.split(jax.random.fold_in(jax.random.key(seed), STREAM))

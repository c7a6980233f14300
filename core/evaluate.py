"""Evaluation: full episodes of a trained agent, in environments that it was not trained in."""

import contextlib
import functools
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .agent import BuiltAgent
from .checkpoint import Checkpointer, Restored
from .episodes import Episode
from .errors import UserError
from .experiment import Train
from .interfaces import Environment, EnvPlugin
from .learner import Learner
from .on_device import OnDevice, make_runs
from .registry import name_of
from .scores import human_normalised
from .seeding import evaluation_seeds
from .types import ActorParams, Array, EnvSpec, PyTree, TimeStep
from .workdir import Workdir

MAX_ENVS = 16
REPORT_SECONDS = 5.0


def evaluate(
  path: Path, episodes: int, greedy: bool = False, seed: int = 0, step: int | None = None
) -> dict[str, Any]:
  """Scores a checkpoint of a run; on one device, with progress on stderr.

  Args:
    path: the workdir.
    episodes: how many to play.
    greedy: take the mode of the policy, not a sample.
    seed: of environments and actions.
    step: the update whose checkpoint it is; None for the newest whole one.

  Returns:
    mean, standard deviation (of the episodes, not of the mean), min and max of the raw return; mean
    length; what was played; `human_normalized` for Atari.

  Raises:
    UserError: there is no run or no whole checkpoint, or a number makes no sense.
  """
  for name, value, least in (("episodes", episodes, 1), ("seed", seed, 0)):
    if value < least:
      raise UserError(f"--{name} {value} must be at least {least}.")
  workdir = Workdir(path)
  experiment: Train = workdir.load().root
  seeds = evaluation_seeds(seed, min(episodes, MAX_ENVS), workdir.env_seeds())
  pool = experiment.env.make(seeds)
  with contextlib.closing(pool):
    agent = BuiltAgent(experiment.agent, pool.spec)
    env_steps, actor_params = _restore(workdir, step, experiment, agent, pool.spec)
    key, unroll_length = jax.random.key(seed), experiment.unroll_length
    played = play(agent, actor_params, pool, episodes, unroll_length, key, greedy)
  return summary(experiment.env, played) | {
    "env_steps": env_steps,
    "greedy": greedy,
    "seed": seed,
  }


def summary(env: EnvPlugin, played: list[Episode]) -> dict[str, Any]:
  """What the played episodes say."""
  returns = np.array([episode.episode_return for episode in played])
  result = {
    "mean": float(returns.mean()),
    "std": float(returns.std()),
    "min": float(returns.min()),
    "max": float(returns.max()),
    "episodes": len(played),
    "length": float(np.mean([episode.length for episode in played])),
  }
  if name_of(env) == "atari":  # the only environment with published human scores
    result["human_normalized"] = human_normalised(vars(env)["game"], result["mean"])
  return result


def play(
  agent: BuiltAgent,
  actor_params: ActorParams,
  pool: Environment,
  episodes: int,
  unroll_length: int,
  key: Array,
  greedy: bool = False,
) -> list[Episode]:
  """Plays full episodes with the agent's behaviour policy.

  How many each environment contributes is settled beforehand. (The first `episodes` to finish in a
  batch would be the short ones.)

  Args:
    agent: acts.
    actor_params: on the device that acts.
    pool: new; has at most `episodes` environments.
    episodes: how many to play.
    unroll_length: a random head is drawn anew after so many steps, as in training.
    key: all that is drawn follows from it.
    greedy: take the mode, not a sample.
  """
  step = jax.jit(functools.partial(_act, agent, greedy))
  left = np.full(pool.num_envs, episodes // pool.num_envs)
  left[: episodes % pool.num_envs] += 1
  returns, lengths = np.zeros(pool.num_envs), np.zeros(pool.num_envs, np.int64)
  core_state = agent.network.initial_state(pool.num_envs)
  timestep = pool.reset()
  played: list[Episode] = []
  t, reported = 0, time.monotonic()
  while left.any():
    trajectory = jax.random.fold_in(key, t // unroll_length)
    action, core_state = step(
      actor_params, timestep, core_state, trajectory, np.int32(t % unroll_length)
    )
    pool.send(np.asarray(action))
    timestep = pool.recv()
    t += 1
    for i in np.flatnonzero(timestep.first & (left > 0)):
      played.append(Episode(t * pool.num_envs, float(returns[i]), int(lengths[i])))
    left -= timestep.first & (left > 0)
    returns = np.where(timestep.first, 0.0, returns + timestep.reward)
    lengths = np.where(timestep.first, 0, lengths + 1)
    if time.monotonic() - reported > REPORT_SECONDS:
      print(f"selftune: {len(played)}/{episodes} episodes, step {t}", file=sys.stderr, flush=True)
      reported = time.monotonic()
  return played


def _act(agent: BuiltAgent, greedy: bool, actor_params, timestep, core_state, key, t):
  sample, _, core_state = agent.act(actor_params, timestep, core_state, key, t, greedy)
  return agent.distribution.to_action(sample), core_state


def _restore(
  workdir: Workdir, step: int | None, experiment: Train, agent: BuiltAgent, spec: EnvSpec
) -> tuple[int, ActorParams]:
  """Env steps of the checkpoint, and its parameters on the first device.

  Of independent runs these are the parameters of the first, run 0 in runs.csv.
  """
  device = jax.devices()[0]
  if isinstance(experiment.runtime, OnDevice):
    with contextlib.closing(make_runs(experiment, experiment.runtime)) as runs:
      restored = _checkpoint(workdir, step, runs.init())
    state = jax.tree.map(lambda x: jax.device_put(x[0], device), restored.state.learner)
    fns = agent.fns(experiment.total_updates, None)  # type: ignore[arg-type]
    gamma = fns.gamma(experiment.agent.metaopt.values(fns, state.meta_state))
    return restored.host["env_steps"], ActorParams(state.params, gamma)
  learner = Learner(
    agent, [device], experiment.num_envs, experiment.unroll_length, experiment.total_updates
  )
  one = np.zeros(1, np.float32)
  observation = np.zeros((1, *spec.observation.shape), spec.observation.dtype)
  timestep = TimeStep(observation, reward=one, discount=one, first=one > 0)
  state = learner.init(jax.random.key(experiment.seed), timestep)
  restored = _checkpoint(workdir, step, state)
  return restored.host["env_steps"], learner.actor_params(restored.state, [device])[device]


def _checkpoint(workdir: Workdir, step: int | None, like: PyTree) -> Restored:
  restored = Checkpointer(workdir.checkpoints).restore(like, step)
  if restored is None:
    raise UserError(f"{workdir.path} has no checkpoint yet: let the run go on until it has one.")
  if restored.note:
    print(f"selftune: {restored.note}.", file=sys.stderr)
  return restored

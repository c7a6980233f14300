"""Evaluation of a checkpoint: full episodes in environments that the agent was not trained in."""

import contextlib
import dataclasses
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ..agent.functions import Functions
from ..api.display import Display
from ..api.errors import UserError
from ..api.ranges import MAX_STEPS, Count, Seed
from ..api.types import ActorParams, EnvSpec, LearnerState, PyTree, TimeStep
from ..config.values import describe, fits
from ..engine.learner import Learner
from ..experiment import Train
from ..machine import shortage, variables
from ..machine.seeding import evaluation_seeds
from ..record.checkpoint import Checkpointer, Restored
from ..record.workdir import Workdir
from ..runs.independent import make_runs
from ..runs.settings import laid_out, with_settings
from ..runs.standing import Standing
from .playing import MAX_ENVS, play, summary
from .video import check_path, pool_of

REPORT = 5.0  # seconds between lines of progress


def evaluate(
  path: Path | str,
  episodes: int = 100,
  greedy: bool = False,
  seed: int = 0,
  step: int | None = None,
  video: Path | str | None = None,
  max_steps: int = MAX_STEPS,
  trusted: bool = False,
) -> dict[str, Any]:
  """Scores a checkpoint of a run; on one device, with progress on stderr.

  Args:
    path: the workdir.
    episodes: how many to play.
    greedy: take the mode of the policy, not a sample.
    seed: of environments and actions.
    step: the update whose checkpoint it is; None for the newest whole one.
    video: an MP4 file for the first episode of the first environment.
    max_steps: of an episode; one that has not ended then is cut, and said to be.
    trusted: modules in the workdir may be imported.

  Returns:
    mean, standard deviation (of the episodes, not of the mean), min and max of the raw return; mean
    length; what was played, how many episodes of it were `cut`, and `run` where these are many: 0,
    or of a population the number of the best; `normalized`, the mean by published scores, where
    there are any.

  Raises:
    UserError: there is no run or no whole checkpoint, a number makes no sense, or there can be no
      video.
  """
  numbers = (("episodes", episodes, Count), ("seed", seed, Seed), ("max-steps", max_steps, Count))
  # Refused before JAX starts, which takes seconds.
  for name, value, kind in numbers:
    if not fits(value, kind):
      raise UserError(f"--{name} {value}: it must be {describe(kind)}.")
  variables.start_jax()
  workdir, video = Workdir(Path(path), trusted), Path(video) if video else None
  found = chosen(workdir, step)
  experiment = found.experiment
  seeds = evaluation_seeds(seed, min(episodes, MAX_ENVS), workdir.env_seeds())
  if video:
    check_path(video)
  with (
    shortage.explained("Give fewer --episodes: at most as many environments play at once."),
    pool_of(experiment.env, seeds, video) as (pool, watchers),
  ):
    # The pool comes first: the network is built for its spec.
    agent = Functions(experiment.agent, pool.spec, experiment.total_updates)
    env_steps, actor_params = restore(workdir, step, found, agent, pool.spec)
    key, unroll_length = jax.random.key(seed), experiment.unroll_length
    how_long = (episodes, max_steps, unroll_length)
    with Display(episodes, "episodes", interval=REPORT, silent=REPORT) as display:
      watchers = [lambda _, finished: display.show(finished), *watchers]
      played = play(agent, actor_params, pool, *how_long, key, greedy, watchers)
  if note := played.note(f"{max_steps:,} steps (--max-steps)"):
    print(f"selftune: {note}.", file=sys.stderr)
  of_run = {} if found.run is None else {"run": found.run}
  return summary(experiment.env, played) | {
    "env_steps": env_steps,
    "greedy": greedy,
    "seed": seed,
    "max_steps": max_steps,
    **of_run,
  }


class Chosen(NamedTuple):
  """The agent of a run that is scored: of independent runs the first, of a population the best."""

  experiment: Train  # with the settings of that run
  run: int | None = None  # its number in runs.csv, where there are many
  learner: LearnerState | None = None  # its own, where there are many, on the first device
  env_steps: int = 0  # of the checkpoint of all, where there are many


def chosen(workdir: Workdir, step: int | None) -> Chosen:
  """Chooses the run of a workdir that is scored; where there are many, reads their checkpoint.

  Args:
    workdir: of the run.
    step: the update whose checkpoint it is; None for the newest whole one.

  Raises:
    UserError: there is no run, or of many no whole checkpoint.
  """
  experiment: Train = workdir.load().root
  if experiment.runs is None:
    return Chosen(experiment)
  device = jax.devices()[0]
  _, settings, _ = laid_out(experiment, experiment.runs)
  # Their first states say what a checkpoint of R runs looks like: Orbax restores into a structure.
  with contextlib.closing(make_runs(experiment, experiment.runs, [device], advances=False)) as runs:
    restored = _checkpoint(workdir, step, runs.saved(runs.init()))
  run = 0
  if saved := restored.host.get("population"):
    standing = Standing.from_json(saved)
    diverged = np.asarray(restored.state.learner.failure) >= 0
    run, settings = standing.best(diverged), standing.settings
  own = {name: values[run] for name, values in settings.items()}
  agent, env = with_settings((experiment.agent, experiment.env), own)
  # That run of the leading axis R: `Functions` know one run only.
  learner = jax.tree.map(lambda x: jax.device_put(x[run], device), restored.state.learner)
  one = dataclasses.replace(experiment, agent=agent, env=env)
  return Chosen(one, run, learner, restored.host["env_steps"])


def restore(
  workdir: Workdir, step: int | None, found: Chosen, agent: Functions, spec: EnvSpec
) -> tuple[int, ActorParams]:
  """Restores what acts, on the first device.

  Args:
    workdir: of the run.
    step: the update whose checkpoint it is; None for the newest whole one.
    found: the run.
    agent: its functions.
    spec: of the environment, without a batch axis.

  Returns:
    Env steps of the checkpoint; and its parameters with discounts [P + E + C].

  Raises:
    UserError: there is no whole checkpoint, or it is of another agent.
  """
  # Of many runs `chosen` has read the checkpoint of all already.
  if found.learner is not None:
    gamma = agent.gamma(agent.values(found.learner.meta_state))
    return found.env_steps, ActorParams(found.learner.params, gamma)
  device, experiment = jax.devices()[0], found.experiment
  # Sizes as in training: a meta-optimiser may keep batches in its state, which is restored whole.
  learner = Learner(agent, [device], experiment.num_envs, experiment.unroll_length)
  # The state's shapes follow from those of a timestep, of B = 1: no parameter depends on B.
  one = np.zeros(1, np.float32)
  observation = np.zeros((1, *spec.observation.shape), spec.observation.dtype)
  timestep = TimeStep(observation, reward=one, discount=one, first=one > 0)
  state = learner.init(jax.random.key(experiment.seed), timestep)
  restored = _checkpoint(workdir, step, state)
  return restored.host["env_steps"], learner.actor_params(restored.state, [device])[device]


def _checkpoint(workdir: Workdir, step: int | None, like: PyTree) -> Restored:
  restored = Checkpointer(workdir.checkpoints).restore(like, step)
  if restored is None:
    raise UserError(
      f"{workdir.path} has no checkpoint: a run writes one every train.checkpoint_seconds, and at "
      "its end."
    )
  if restored.note:
    print(f"selftune: {restored.note}.", file=sys.stderr)
  return restored

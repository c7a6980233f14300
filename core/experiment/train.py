"""The root of a configuration: what a training run is; `core.train` says how it goes."""

import dataclasses
import math

from ..api.contracts import EnvPlugin, WriterPlugin
from ..api.ranges import LARGEST, MAX_STEPS, Count, Natural, NotNegative, Seed, Steps
from ..api.registry import configurable, name_of
from ..api.resuming import resumable
from .agent import Agent
from .runtimes import IndependentRuns, Lockstep, Sebulba


@configurable("evaluation")
@dataclasses.dataclass(frozen=True)
class Evaluation:
  """Scores the agent now and then while it trains, in environments that it is not trained in.

  Many runs are all scored at once, on the device; they wait for it.

  Every time these are the same, from their start. An evaluation that is due while the one before
  is still under way is skipped; the parameters that training ends with are always scored. What a
  stop or a kill ended is made up for when the run is resumed.

  Attributes:
    every_env_steps: of training, and of each run; the first is of the untrained agent.
    episodes: to play each time.
    num_envs: that play them.
    max_steps: of an episode; one that has not ended then is cut, and counted as `cut`.
    greedy: take the mode of the policy, not a sample.
    video: record the first episode of each time, as WORKDIR/videos/<env_steps>.mp4.
  """

  every_env_steps: Steps = resumable(100_000)
  episodes: Count = resumable(10)
  num_envs: Count = resumable(5)
  max_steps: Count = resumable(MAX_STEPS)
  greedy: bool = resumable(False)
  video: bool = resumable(False)

  def __post_init__(self):
    if self.num_envs > self.episodes:
      raise ValueError(f"num_envs = {self.num_envs} must be at most episodes = {self.episodes}.")


@configurable("train")
@dataclasses.dataclass(frozen=True)
class Train:
  """The root of a configuration: one training run.

  Attributes:
    env: the environment.
    agent: what is trained.
    runtime: `lockstep`, `sebulba`, or `runs`: many independent ones as one program.
    writers: where metrics go; `jsonl` should be among them, plots are drawn from it.
    seed: of everything that is drawn.
    total_env_steps: length of the run, in steps of single environments (not frames).
    num_envs: environments, and so trajectories an update: the batch size. Of the whole job: its
      processes share them.
    unroll_length: transitions of a trajectory.
    overlap: of these, how many at its end begin the next trajectory too; each new step is then
      learned from unroll_length / (unroll_length - overlap) times.
    stagger: episodes that are all of one length start out of step with each other; the first one of
      each environment then is a part only, and so is its return.
    learner_devices: indices of the devices that learn, and may act too; they share the batch, or
      the runs of `@runs()`, and where these are fewer the batch of each. None takes every
      accelerator, or without one a CPU device a core.
    micro_batch: trajectories that a learner device takes at a time; None for its whole share.
    cpu_micro_batch: the same where the learners are CPUs and `micro_batch` is None: convolutions
      are several times faster there while their activations stay in cache.
    log_seconds: time between rows of metrics.
    checkpoint_seconds: time between checkpoints; one more is written at the end.
    checkpoints_to_keep: the newest so many.
    keep_every_steps: of older ones, the first is kept too, and one every so many env steps; None
      keeps none of them.
    evaluation: `@evaluation()` scores the agent now and then beside training; None does not.
  """

  env: EnvPlugin
  agent: Agent
  runtime: Lockstep | Sebulba | IndependentRuns
  writers: tuple[WriterPlugin, ...] = resumable()
  total_env_steps: Steps = resumable()
  seed: Seed = 0
  num_envs: Count = 32
  unroll_length: Count = 20
  overlap: Natural = 0
  stagger: bool = False
  learner_devices: tuple[int, ...] | None = resumable((0,))
  micro_batch: Count | None = resumable(None)
  cpu_micro_batch: Count | None = resumable(None)
  log_seconds: NotNegative = resumable(2.0)
  checkpoint_seconds: NotNegative = resumable(120.0)
  checkpoints_to_keep: int = resumable(3)
  keep_every_steps: Steps | None = resumable(None)
  evaluation: Evaluation | None = resumable(None)

  def __post_init__(self):
    # Checks of two fields are here; those of one are annotations, which `config` reads.
    if not 0 <= self.overlap < self.unroll_length:
      raise ValueError(
        f"overlap = {self.overlap} must be from 0 to {self.unroll_length - 1}: a trajectory of "
        f"unroll_length = {self.unroll_length} needs a new transition."
      )
    if self.total_updates > LARGEST:
      raise ValueError(
        f"total_env_steps = {self.total_env_steps} is {self.total_updates:,} updates of "
        f"{self.steps_per_update:,} steps; a run counts to {LARGEST:,}."
      )
    # `core.train` has writers by name: of two that share one, the first would be dropped.
    names = [name_of(writer) for writer in self.writers]
    if len(set(names)) < len(names):
      raise ValueError(f"writers holds one twice: {', '.join(names)}.")
    if self.checkpoints_to_keep < 2:
      raise ValueError(
        f"checkpoints_to_keep = {self.checkpoints_to_keep} must be at least 2: a crash may damage "
        "the newest."
      )

  @property
  def runs(self) -> IndependentRuns | None:
    """The runtime where it is of many runs as one program; None where it is of one."""
    return self.runtime if isinstance(self.runtime, IndependentRuns) else None

  @property
  def steps_per_update(self) -> int:
    """New env steps an update; the first has `overlap * num_envs` more."""
    return (self.unroll_length - self.overlap) * self.num_envs

  @property
  def total_updates(self) -> int:
    """The number of updates of the whole run; the last one may go beyond `total_env_steps`."""
    # The first trajectory overlaps nothing: it takes `overlap` more steps of each environment.
    later = self.total_env_steps - self.overlap * self.num_envs
    return max(1, math.ceil(later / self.steps_per_update))

  @property
  def keep_every(self) -> int | None:
    """The number of updates in `keep_every_steps`, rounded up."""
    return self.keep_every_steps and math.ceil(self.keep_every_steps / self.steps_per_update)

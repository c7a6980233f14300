"""What a training run is: the root of a configuration."""

import dataclasses
import itertools
import math
from collections.abc import Mapping

from .agent import Agent
from .config.values import describe, fits
from .evaluation import MAX_STEPS
from .interfaces import EnvPlugin, WriterPlugin
from .ranges import LARGEST, Count, Natural, NotNegative, Seed, Steps
from .registry import configurable, name_of
from .runs.device import CHUNK
from .runtime import Runtime


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
      the runs of `@runs()`. None takes every accelerator, or without one a CPU device a core.
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
  runtime: "Runtime | IndependentRuns"
  writers: tuple[WriterPlugin, ...]
  total_env_steps: Steps
  seed: Seed = 0
  num_envs: Count = 32
  unroll_length: Count = 20
  overlap: Natural = 0
  stagger: bool = False
  learner_devices: tuple[int, ...] | None = (0,)
  micro_batch: Count | None = None
  cpu_micro_batch: Count | None = None
  log_seconds: NotNegative = 2.0
  checkpoint_seconds: NotNegative = 120.0
  checkpoints_to_keep: int = 3
  keep_every_steps: Steps | None = None
  evaluation: "Evaluation | None" = None

  def __post_init__(self):
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
    names = [name_of(writer) for writer in self.writers]
    if len(set(names)) < len(names):
      raise ValueError(f"writers holds one twice: {', '.join(names)}.")
    if self.checkpoints_to_keep < 2:
      raise ValueError(
        f"checkpoints_to_keep = {self.checkpoints_to_keep} must be at least 2: a crash may damage "
        "the newest."
      )

  @property
  def steps_per_update(self) -> int:
    """New env steps an update; the first has `overlap * num_envs` more."""
    return (self.unroll_length - self.overlap) * self.num_envs

  @property
  def total_updates(self) -> int:
    later = self.total_env_steps - self.overlap * self.num_envs
    return max(1, math.ceil(later / self.steps_per_update))

  @property
  def keep_every(self) -> int | None:
    """`keep_every_steps` in updates."""
    return self.keep_every_steps and math.ceil(self.keep_every_steps / self.steps_per_update)


@configurable("runs")
@dataclasses.dataclass(frozen=True)
class IndependentRuns:
  """Independent runs that act and learn as one compiled program.

  Where the environment is functional it is part of the program, and no host is in the loop; else
  the environments of all runs are one pool on the host.

  `train.num_envs` and `train.total_env_steps` are of each run. A run is frozen when it has made its
  steps, finished its `episodes`, or diverged; training ends when all are frozen.

  Attributes:
    settings: values to run, by 'component.field' or 'train.seed'; every combination of them is a
      setting.
    paired: the first values of all settings are one setting, the second ones another, and so on.
    repeats: runs of each setting, with the seeds train.seed, train.seed + 1, ...
    run_writers: writers that every run has for itself, in WORKDIR/runs/<its number>.
    episodes: of each run; None for no limit.
    iterations: of the compiled program between looks at the host; one is an update, or a block of
      updates where the meta-optimiser has a faster form for these.
    chunk: runs of a device that are taken together.
  """

  settings: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
  paired: bool = False
  repeats: Count = 1
  run_writers: tuple[WriterPlugin, ...] = ()
  episodes: Count | None = None
  iterations: Count = 100
  chunk: Count = CHUNK
  actor_devices = ()  # none but those that learn

  def __post_init__(self):
    for name, values in self.settings.items():
      if not values:
        raise ValueError(f"settings['{name}'] has no values: leave it out, or give some.")
    lengths = [len(values) for values in self.settings.values()]
    if self.paired and len(set(lengths)) != 1:
      raise ValueError(
        "paired = True takes settings that have equally many values; they have "
        f"{' and '.join(map(str, lengths)) or 'none'}."
      )
    for seed in self.settings.get("train.seed", ()):
      if seed != int(seed) or not fits(int(seed), Seed):
        raise ValueError(f"settings['train.seed'] holds {seed}; a seed is {describe(Seed)}.")

  @property
  def size(self) -> int:
    """How many runs there are."""
    lengths = [len(values) for values in self.settings.values()]
    return self.repeats * (lengths[0] if self.paired else math.prod(lengths))

  def grid(self, seed: int) -> tuple[list[int], dict[str, list[float]]]:
    """The seed of every run, and its settings by name."""
    combine = zip if self.paired else itertools.product
    rows = [row for row in combine(*self.settings.values()) for _ in range(self.repeats)]
    settings = {name: [row[i] for row in rows] for i, name in enumerate(self.settings)}
    first = settings.pop("train.seed", [seed] * len(rows))
    return [int(s) + i % self.repeats for i, s in enumerate(first)], settings


@configurable("evaluation")
@dataclasses.dataclass(frozen=True)
class Evaluation:
  """Scores the agent now and then while it trains, in environments that it is not trained in.

  Every time these are the same, from their start. An evaluation that is due while the one before
  is still under way is skipped; the parameters that training ends with are always scored.

  Attributes:
    every_env_steps: of training; the first is of the untrained agent.
    episodes: to play each time.
    num_envs: that play them.
    max_steps: of an episode; one that has not ended then is cut, and counted as `cut`.
    greedy: take the mode of the policy, not a sample.
    video: record the first episode of each time, as WORKDIR/videos/<env_steps>.mp4.
  """

  every_env_steps: Steps = 100_000
  episodes: Count = 10
  num_envs: Count = 5
  max_steps: Count = MAX_STEPS
  greedy: bool = False
  video: bool = False

  def __post_init__(self):
    if self.num_envs > self.episodes:
      raise ValueError(f"num_envs = {self.num_envs} must be at most episodes = {self.episodes}.")

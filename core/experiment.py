"""The experiment: what a training run is, as data alone; `core.train` says how it goes."""

import dataclasses
import fnmatch
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from .api.contracts import (
  ChecksComponents,
  Corrector,
  EnvPlugin,
  Exploit,
  Explore,
  LossTerm,
  MetaOptimizer,
  NetworkPlugin,
  Optimizer,
  WriterPlugin,
)
from .api.errors import did_you_mean
from .api.ranges import (
  LARGEST,
  MAX_STEPS,
  Count,
  Natural,
  NotNegative,
  Positive,
  Seed,
  Steps,
  ranges,
)
from .api.registry import configurable, name_of
from .api.resuming import resumable

BehaviourName = Literal["first", "random", "average"]


CriticName = Literal["none", "shared", "stopped", "own"]


@configurable("outer")
@dataclasses.dataclass(frozen=True)
class Outer:
  """How the outer loss, which self-tuning minimises, differs from the inner one.

  Without more it is the inner loss at its configured values (STAC, Eq. 3). Its values come from a
  head that learns with the *tuned* discount, which biases its advantage; an outer critic is one
  more value head that learns with the outer corrector, and serves the outer loss alone (Bonnet et
  al. 2022).

  Attributes:
    losses: terms that only the outer loss has, or in place of one of objective.losses.
    keep: of objective.losses, the outer loss has those whose names match one of these patterns.
    corrector: of the outer loss and its critic; None for objective.corrector as configured.
    critic: `none`; or where the critic's head lies: on the torso that all `shared`, on that torso
      but with its gradient `stopped` there, or on a network of its `own`.
    critic_cost: weight of the critic's squared error in the inner loss.
    normalise: the outer advantage is shifted and scaled to mean 0 and standard deviation 1 over the
      valid transitions of a batch, or of a micro-batch where there are several.
  """

  losses: tuple[LossTerm, ...] = ()
  keep: tuple[str, ...] = ("*",)
  corrector: Corrector | None = None
  critic: CriticName = "none"
  critic_cost: NotNegative = 0.25
  normalise: bool = False

  def __post_init__(self):
    _once(self.losses, "outer.losses")


@configurable("objective")
@dataclasses.dataclass(frozen=True)
class Objective:
  """The objective of an agent: its loss (Algorithm 1 of STAC), and the optimiser of that.

  Attributes:
    corrector: turns values and IS ratios into targets.
    losses: the terms of the inner loss; the outer loss has the same at their configured values.
    optimizer: of the network's parameters.
    outer: `@outer()` says in what else the outer loss differs.
    max_abs_reward: rewards are clipped to this for learning; None leaves them raw.
    max_log_is: cap on log IS ratios; leaky V-trace and importance sampling leave them unbounded.
      Their products along a trace are bounded by 1e6, which no ordinary ratios come near.
  """

  corrector: Corrector
  losses: tuple[LossTerm, ...]
  optimizer: Optimizer
  outer: Outer = dataclasses.field(default_factory=Outer)
  max_abs_reward: Positive | None = None
  max_log_is: Positive = 5.0  # e^5 = 148

  def __post_init__(self):
    _once(self.losses, "losses")
    names = [name_of(term) for term in self.losses]
    for pattern in self.outer.keep:
      if not fnmatch.filter(names, pattern):
        raise ValueError(
          f"outer.keep holds '{pattern}', which matches no term; there are: {', '.join(names)}."
        )

  @property
  def outer_terms(self) -> dict[str, LossTerm]:
    """The terms of the outer loss by registered name, at their configured values."""
    kept = {name_of(term): term for term in self.losses}
    kept = {
      name: term
      for name, term in kept.items()
      if any(fnmatch.fnmatchcase(name, pattern) for pattern in self.outer.keep)
    }
    return kept | {name_of(term): term for term in self.outer.losses}

  @property
  def outer_corrector(self) -> Corrector:
    """The corrector of the outer loss and its critic."""
    return self.corrector if self.outer.corrector is None else self.outer.corrector


def _once(terms: Sequence[LossTerm], setting: str) -> None:
  """Raises ValueError where two loss terms have one name."""
  # By name: tunables and metrics are named by the term, so two of a name could not be told apart.
  names = [name_of(term) for term in terms]
  for name in names:
    if names.count(name) > 1:
      raise ValueError(f"{setting} holds '{name}' twice; a term may appear once.")


@configurable("agent")
@dataclasses.dataclass(frozen=True)
class Agent:
  """An actor-critic agent with P heads on one torso.

  Attributes:
    network: torso and heads.
    metaopt: owns the update: `fixed` (IMPALA), `metagradient` (STAC, STACX), or `ac_lambda`
      (Metatrace).
    objective: the loss and its optimiser; None where the update minimises no loss, as that of
      `ac_lambda`.
    heads: P; every head has its own policy, value and metaparameters.
    behaviour: who acts: the first head, a random one, or the average of all.
  """

  network: NetworkPlugin
  metaopt: MetaOptimizer
  objective: Objective | None = None
  heads: Count = 1
  behaviour: BehaviourName = "first"

  def __post_init__(self):
    if isinstance(self.metaopt, ChecksComponents):
      self.metaopt.check(self.components)

  @property
  def components(self) -> dict[str, Any]:
    """The plugins whose tunables a meta-optimiser may tune, by registered name."""
    if self.objective is None:
      return {}
    parts = (self.objective.corrector, *self.objective.losses, self.objective.optimizer)
    return {name_of(part): part for part in parts}


@configurable("lockstep")
@dataclasses.dataclass(frozen=True)
class Lockstep:
  """Act, learn, act, learn: one thread, no lag.

  Attributes:
    groups: environment pools that are stepped in turn, so that one steps while the network acts for
      another.
    actor_devices: index of the device that acts.
  """

  groups: Count = 2
  actor_devices: tuple[int, ...] = resumable((0,))
  # No annotation: no field, so that gin cannot bind what Sebulba alone can set.
  actors = 1


@configurable("sebulba")
@dataclasses.dataclass(frozen=True)
class Sebulba:
  """Actor threads feed the learner (Podracer's Sebulba; Hessel et al. 2021).

  Attributes:
    actors: threads; each acts in its share of the environments.
    groups: environment pools an actor steps in turn.
    lag: trajectory k is acted by the parameters of update k - lag; 0 waits for the learner.
    actor_devices: device indices, dealt out to the actors in turn.
  """

  actors: Count = 1
  groups: Count = 2
  lag: Natural = 1
  actor_devices: tuple[int, ...] = resumable((0,))


@configurable("population")
@dataclasses.dataclass(frozen=True)
class Population:
  """Runs that take over from each other while they train (Jaderberg et al. 2017).

  Now and then `exploit` says which runs go on as copies of which others: of what these have
  learned, metaparameters too, with settings that `explore` chooses. Environments and random numbers
  stay a run's own. A run's score is the mean raw return of its episodes that ended since the
  exchange before; one without any takes no part, nor does one that has come to its end, and one
  that diverged is the worst. WORKDIR/lineage.jsonl says what became of whom.

  Attributes:
    exploit: who is replaced by whom.
    explore: the settings that copies go on with.
    every_env_steps: between exchanges, of each run; they are made where the host looks, every
      `runs.iterations`.
    bounds: the least and greatest value by name of a setting, narrower than its own range.
    first: the values that runs begin with are those `given` by runs.settings, or are `drawn`
      between the bounds, evenly on the scale of the number: a factor, or of numbers from 0 to 1 one
      of the odds.
  """

  exploit: Exploit
  explore: Explore
  every_env_steps: Steps = 100_000
  bounds: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
  first: Literal["given", "drawn"] = "given"

  def __post_init__(self):
    for name, (low, high) in self.bounds.items():
      if not low < high:
        raise ValueError(f"population.bounds['{name}'] = ({low}, {high}): write the lesser first.")


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
    native: advance runs by machine code where the agent has some, a C++ compiler is found, and the
      device is a CPU; an iteration is then 16 steps. It equals JAX's program to float tolerance.
    population: `@population()` lets runs take over from each other, and varies `settings`; None:
      they are independent.
  """

  settings: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
  paired: bool = False
  repeats: Count = 1
  run_writers: tuple[WriterPlugin, ...] = resumable(())
  episodes: Count | None = None
  iterations: Count = 100
  chunk: Count = resumable(32)
  native: bool = resumable(True)
  population: Population | None = None
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
      (allowed,) = ranges(Seed)
      if seed != int(seed) or not allowed.holds(seed):
        raise ValueError(f"settings['train.seed'] holds {seed}; a seed is int {allowed.says}.")
    if self.population is not None:
      self._check_population(self.population)

  def _check_population(self, population: Population) -> None:
    varied = self.settings.keys() - {"train.seed"}
    if not varied:
      raise ValueError("runs.population varies what runs.settings holds, which is no number.")
    if self.size < 2:
      raise ValueError("runs.population takes two runs or more: give runs.repeats.")
    for name in population.bounds:
      if name not in varied:
        near = did_you_mean(name, varied)
        raise ValueError(f"population.bounds holds '{name}', which runs.settings does not.{near}")

  @property
  def size(self) -> int:
    """The number of runs."""
    lengths = [len(values) for values in self.settings.values()]
    return self.repeats * (lengths[0] if self.paired else math.prod(lengths))

  def grid(self, seed: int) -> tuple[list[int], dict[str, list[float]]]:
    """Lays the runs out.

    Args:
      seed: of the experiment.

    Returns:
      The seed of every run, and by name the value of each setting in every run, R of them.
    """
    # Repeats of a setting lie side by side: run r is repeat r % repeats of its setting.
    combine = zip if self.paired else itertools.product
    rows = [row for row in combine(*self.settings.values()) for _ in range(self.repeats)]
    settings = {name: [row[i] for row in rows] for i, name in enumerate(self.settings)}
    first = settings.pop("train.seed", [seed] * len(rows))
    return [int(s) + i % self.repeats for i, s in enumerate(first)], settings


@configurable("evaluation")
@dataclasses.dataclass(frozen=True)
class Evaluation:
  """Scores the agent now and then while it trains, in environments that it is not trained in.

  Many runs are all scored at once, on the device; they wait for it.

  Every time these are the same, from their start. An evaluation that is due while the one before
  is still under way is skipped; the parameters that training ends with are always scored.

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

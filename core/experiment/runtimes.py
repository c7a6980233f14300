"""How a run goes: one after the other, with actors beside, or many runs as one program."""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Literal

from ..api.contracts import Exploit, Explore, WriterPlugin
from ..api.errors import UserError
from ..api.ranges import Count, Natural, Seed, Steps, ranges
from ..api.registry import configurable
from ..api.resuming import resumable


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
      setting. A component's is of all its instances: refused where gin's scopes make these differ.
    paired: the first values of all settings are one setting, the second ones another, and so on.
    repeats: runs of each setting, with the seeds train.seed, train.seed + 1, ...
    run_writers: writers that every run has for itself, in WORKDIR/runs/<its number>.
    episodes: of each run; None for no limit.
    iterations: of the compiled program between looks at the host; one is an update, or a block of
      updates where the meta-optimiser has a faster form for these.
    lag: trajectory k is acted by the parameters of update k - lag, as if actors and learner were
      apart: what off-policy correction is for, without threads.
    chunk: runs of a device that are taken together; None takes 32 on a CPU, where what they carry
      stays in cache, and all of them on an accelerator.
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
  lag: Natural = 0
  chunk: Count | None = resumable(None)
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
    # Values of settings are floats, a seed's too.
    for seed in self.settings.get("train.seed", ()):
      (allowed,) = ranges(Seed)
      if seed != int(seed) or not allowed.holds(seed):
        raise ValueError(f"settings['train.seed'] holds {seed}; a seed is int {allowed.says}.")

  @property
  def size(self) -> int:
    """R, the number of runs."""
    lengths = [len(values) for values in self.settings.values()]
    return self.repeats * (lengths[0] if self.paired else math.prod(lengths))

  def grid(self, seed: int) -> tuple[list[int], dict[str, list[float]]]:
    """Lays the runs out.

    Args:
      seed: of the experiment.

    Returns:
      The seed of every run, and by name the value of each setting in every run, R of them.

    Raises:
      UserError: the repeats of a seed go beyond the greatest one.
    """
    # Repeats of a setting lie side by side: run r is repeat r % repeats of its setting.
    combine = zip if self.paired else itertools.product
    rows = [row for row in combine(*self.settings.values()) for _ in range(self.repeats)]
    settings = {name: [row[i] for row in rows] for i, name in enumerate(self.settings)}
    # Of no plugin, and so no setting of a run: it becomes the run's seed.
    first = settings.pop("train.seed", [seed] * len(rows))
    seeds = [int(s) + i % self.repeats for i, s in enumerate(first)]
    (allowed,) = ranges(Seed)
    if not allowed.holds(max(seeds)):
      raise UserError(f"runs.repeats makes a seed of {max(seeds)}; a seed is {allowed.says}.")
    return seeds, settings

"""Settings of the Real-World RL suite: its challenges, domains and levels.

Workers import this, so it imports nothing heavy. The numbers are in `data/rwrl.json`.
"""

import dataclasses
import functools
import json
from collections.abc import Mapping
from importlib import resources
from typing import Any, NamedTuple

from ...core.api import Count, Fraction, Natural, NotNegative, configurable

SCHEDULERS = (
  "constant",
  "random_walk",
  "drift_pos",
  "drift_neg",
  "cyclic_pos",
  "cyclic_neg",
  "uniform",
  "saw_wave",
)
LEVELS = ("none", "easy", "medium", "hard")

Fault = tuple[float, int]  # probability to set in, per entry and step; steps that it then lasts


@configurable("rwrl_challenges")
@dataclasses.dataclass(frozen=True)
class Challenges:
  """Challenges that make a task of the Real-World RL suite hard; each is off by default.

  Delays are in control steps, noise in standard deviations (absolute, whatever an entry's range).
  A pair is (probability, steps): each entry that works is hit with this probability, and then
  reads 0 (dropped) or its last value (stuck) for so many steps. `action_repetition` holds an
  action for so many steps. `dummy_observations` appends N(0, 1) entries.

  Attributes:
    perturb: the parameter of the physics that changes every `perturb_period` episodes.
    perturb_scheduler: how it changes.
    perturb_start: its first value; this, and the three below, None for the suite's own.
    perturb_min: its lower bound.
    perturb_max: its upper bound.
    perturb_std: scale of its changes.
    safety: evaluate the domain's constraints after each step.
    safety_coeff: in [0, 1]; the lower, the tighter the constraints.
    safety_observed: append one entry a constraint to the observation, 1 if it holds, else 0.
    limit_action_change: one constraint more, on the change of the executed action.
    multiobj_weight: w of the reward (1 - w) r + w s, s the fraction of constraints that hold.
    multiobj_observed: append r and s of this step, not delayed, to the observation.
  """

  action_delay: Natural = 0
  observation_delay: Natural = 0
  reward_delay: Natural = 0
  action_noise: NotNegative = 0.0
  observation_noise: NotNegative = 0.0
  dropped_actions: Fault = (0.0, 1)
  dropped_observations: Fault = (0.0, 1)
  stuck_actions: Fault = (0.0, 1)
  stuck_observations: Fault = (0.0, 1)
  action_repetition: Fault = (0.0, 1)
  dummy_observations: Natural = 0
  perturb: str | None = None
  perturb_scheduler: str = "uniform"
  perturb_period: Count = 1
  perturb_start: NotNegative | None = None
  perturb_min: NotNegative | None = None
  perturb_max: NotNegative | None = None
  perturb_std: NotNegative | None = None
  safety: bool = False
  safety_coeff: Fraction = 1.0
  safety_observed: bool = True
  limit_action_change: bool = False
  multiobj_weight: Fraction = 0.0
  multiobj_observed: bool = False


NO_CHALLENGES = Challenges()


class Parameter(NamedTuple):
  """One parameter of the physics that can be perturbed."""

  start: float
  min: float
  max: float
  std: float


class Domain(NamedTuple):
  """One domain of the suite."""

  task: str  # dm_control's name
  observation_size: int  # entries of dm_control's observation
  action_minimum: tuple[float, ...]
  action_maximum: tuple[float, ...]
  levels: Mapping[str, Challenges]
  parameters: Mapping[str, Parameter]
  safety: Mapping[str, Any]  # limits, by the names that `_rwrl_safety` uses


@functools.cache
def domains() -> Mapping[str, Domain]:
  """Returns the four domains by name, with the combined challenges of each at every level."""
  text = resources.files("selftune").joinpath("data", "rwrl.json").read_text("utf-8")
  data = json.loads(text)
  found = {}
  for name, entry in data["domains"].items():
    levels = {"none": NO_CHALLENGES}
    for level, perturbation in entry["levels"].items():
      # A level sets the same in every domain, but for the parameter of the physics that changes.
      fields = {**data["levels"][level], **perturbation}
      # JSON has no tuples, and a list is not equal to the tuple that a user writes.
      pairs = {key: tuple(value) for key, value in fields.items() if isinstance(value, list)}
      levels[level] = Challenges(**{**fields, **pairs})
    found[name] = Domain(
      entry["task"],
      entry["observation_size"],
      tuple(entry["action_minimum"]),
      tuple(entry["action_maximum"]),
      levels,
      {key: Parameter(**values) for key, values in entry["parameters"].items()},
      entry["safety"],
    )
  return found


def parameter(domain: str, challenges: Challenges) -> Parameter:
  """Returns the perturbed parameter, with what was set in place of the suite's own numbers."""
  assert challenges.perturb is not None
  known = domains()[domain].parameters[challenges.perturb]
  given = {name: getattr(challenges, f"perturb_{name}") for name in Parameter._fields}
  return known._replace(**{name: value for name, value in given.items() if value is not None})

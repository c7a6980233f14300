"""The Real-World RL suite: four domains of dm_control, made hard."""

import dataclasses
from typing import Literal

from ...core.api import Count, Environment, UserError, register, resumable
from . import _pool
from ._rwrl_settings import (
  LEVELS,
  NO_CHALLENGES,
  SCHEDULERS,
  Challenges,
  Parameter,
  domains,
  parameter,
)


@register("env", "rwrl")
@dataclasses.dataclass(frozen=True)
class Rwrl:
  """Real-World RL: cartpole swingup, and walker, quadruped and humanoid walk, made hard.

  Dulac-Arnold et al. 2021, "Challenges of real-world reinforcement learning". `level` combines
  delays, noise, faulty sensors, held actions, changing physics and useless observations; at 'none',
  any of `challenges` can be set instead: `rwrl.challenges = @rwrl_challenges()`, then
  `rwrl_challenges.observation_delay = 6`.

  Observations are one flat float32 vector, actions have dm_control's own bounds, an episode is cut
  after 1000 steps, and rewards are between 0 and 1. Delays and faults go on over the end of an
  episode, so its first rewards belong to the one before. A random policy scores about 500 on
  quadruped (263 at hard), 26 to 67 on cartpole, 33 to 62 on walker, 1 to 2 on humanoid.

  The environments of a pool step in `num_workers` processes: None for one a core, and never more
  than there are environments.

  Raises:
    UserError: no such domain, level or parameter; a level and challenges; or a number makes no
      sense.
  """

  domain: str = "cartpole"
  level: Literal["none", "easy", "medium", "hard"] = "none"
  challenges: Challenges = NO_CHALLENGES
  num_workers: Count | None = resumable(None)

  def __post_init__(self):
    if self.domain not in domains():
      raise UserError(_pool.unknown("rwrl.domain", self.domain, domains()))
    if self.level not in LEVELS:
      raise UserError(_pool.unknown("rwrl.level", self.level, LEVELS))
    if self.level != "none" and self.challenges != NO_CHALLENGES:
      raise UserError(
        f"rwrl.level = {self.level!r} is a combination of challenges already; to set "
        f"{', '.join(_changed(self.challenges))} of rwrl_challenges, write rwrl.level = 'none'."
      )
    _check(self.domain, self.challenges)

  @property
  def reference_scores(self) -> tuple[float, float]:
    """The least and the greatest return there can be."""
    return 0.0, 1000.0

  def make(self, seeds: tuple[int, ...]) -> Environment:
    """Makes a pool of one environment a seed, observations [B, D], in worker processes.

    Raises:
      RunError: the workers cannot be started.
    """
    # Here, not at the top: it imports Gymnasium, and whatever loads a configuration imports this.
    from . import _rwrl_pool

    level = domains()[self.domain].levels[self.level]
    challenges = self.challenges if self.level == "none" else level
    return _rwrl_pool.Pool(self.domain, challenges, seeds, self.num_workers)


def _changed(challenges: Challenges) -> list[str]:
  """Lists the fields that are not at their defaults."""
  names = (field.name for field in dataclasses.fields(Challenges))
  return [name for name in names if getattr(challenges, name) != getattr(NO_CHALLENGES, name)]


def _check(domain: str, it: Challenges) -> None:
  """Raises UserError for what makes no sense in this domain."""
  # Only what was changed is judged, and what would do nothing is refused, not ignored.
  changed = _changed(it)
  parameters = domains()[domain].parameters
  if it.perturb is not None and it.perturb not in parameters:
    binding = f"{domain} has other parameters: rwrl_challenges.perturb"
    raise UserError(_pool.unknown(binding, it.perturb, parameters))
  if it.perturb_scheduler not in SCHEDULERS:
    binding = "rwrl_challenges.perturb_scheduler"
    raise UserError(_pool.unknown(binding, it.perturb_scheduler, SCHEDULERS))
  if it.perturb is None and any(name.startswith("perturb_") for name in changed):
    raise UserError(f"rwrl_challenges.perturb is None: name one of {', '.join(parameters)}.")
  if (it.multiobj_weight or it.multiobj_observed) and not it.safety:
    raise UserError(
      "rwrl_challenges.safety = False: the second objective is the fraction of constraints that "
      "hold, so multiobj_weight and multiobj_observed need safety = True."
    )
  if not it.safety and (idle := [n for n in changed if n.startswith(("safety_", "limit_"))]):
    raise UserError(f"rwrl_challenges.{idle[0]} is of the constraints, and needs safety = True.")
  if it.perturb is not None:
    _check_perturbed(parameter(domain, it), it.perturb_start)
  for name in changed:
    value = getattr(it, name)
    if isinstance(value, tuple) and not (0 <= value[0] <= 1 and value[1] >= 1):
      raise UserError(
        f"rwrl_challenges.{name} = {value!r} must be (probability in [0, 1], steps of at least 1)."
      )


def _check_perturbed(p: Parameter, start: float | None) -> None:
  """Raises UserError for bounds that hold nothing, the suite's own where none are given."""
  if p.min > p.max:
    raise UserError(f"rwrl_challenges.perturb_min = {p.min} must be at most perturb_max = {p.max}.")
  # A start that is given beyond them would be replaced by the nearer one, in silence.
  if start is not None and not p.min <= start <= p.max:
    raise UserError(
      f"rwrl_challenges.perturb_start = {start} must be between perturb_min = {p.min} and "
      f"perturb_max = {p.max}."
    )

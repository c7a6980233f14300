"""A population: runs of one program that take over from each other (Jaderberg et al. 2017).

What plugins decide is decided on the host, from scores; what follows for the states is one small
program on the devices, `inherited`. All that later exchanges depend on is a `Standing`, which
checkpoints hold, so that a resumed population goes on as if it had not been stopped.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ..api import checks
from ..api.contracts import ExploreInputs, Interval, Number
from ..api.errors import UserError, did_you_mean
from ..api.online import RunState
from ..api.ranges import ranges as ranges_of
from ..api.types import Array
from ..config.values import describe, fits
from ..experiment import Population
from ..record.lineage import Exchange
from .standing import Settings, Standing, anew, columns

STREAM = 0xB27  # of random numbers of exchanges, apart from all else that follows from a seed
DIGITS = 7  # of a setting that was chosen; float32 has no more


@dataclasses.dataclass(frozen=True)
class Rules:
  """How a population exchanges.

  Attributes:
    population: as configured.
    annotations: of what is varied, by 'component.field'.
    first: the settings that runs begin with.
    seed: of the training.
  """

  population: Population
  annotations: Mapping[str, Any]
  first: Settings
  seed: int

  @property
  def numbers(self) -> dict[str, Number]:
    """What is varied, by name."""
    return numbers(self.population, self.annotations)

  @property
  def size(self) -> int:
    """The number of runs, R."""
    return len(next(iter(self.first.values())))

  def begin(self) -> Standing:
    """The standing before the first step."""
    return anew(self.first, self.population.every_env_steps, np.full(self.size, np.nan))

  def exchange(
    self, standing: Standing, diverged: np.ndarray, ended: np.ndarray, most_steps: int
  ) -> tuple[Standing, Exchange]:
    """Makes an exchange.

    Args:
      standing: before it.
      diverged: the runs that have diverged, [R] bool.
      ended: the runs that have come to their end, [R] bool.
      most_steps: env steps of the run that made most, of those that have not ended.

    Returns:
      The standing after it; and the exchange, for the lineage.

    Raises:
      UserError: a plugin gives what it must not.
    """
    population, number = self.population, standing.exchanges + 1
    # As `Exploit` has them: -inf of a run that diverged, NaN of one that takes no part.
    scores = np.where(diverged, -np.inf, np.where(ended, np.nan, standing.scores))
    # By the exchange's number: a resumed population draws what it would have drawn.
    of_this = np.random.SeedSequence(self.seed, spawn_key=(STREAM, number))
    rng = np.random.default_rng(of_this)
    who = checks.who(population.exploit)
    # A copy of the scores: a plugin may sort them in place, and they are written down later.
    parents = checked_parents(who, population.exploit(rng, scores.copy()), scores)
    # Kept whether or not a run is replaced: an explore may learn from each interval.
    done = Interval(columns(standing.settings), standing.began, scores)
    history = (*standing.history, done)[-population.explore.memory :]
    after = dict(standing.settings)
    if np.any(parents != np.arange(self.size)):
      given = population.explore(
        rng, ExploreInputs(parents, self.numbers, columns(self.first), history)
      )
      who = checks.who(population.explore)
      after = self._settled(who, given, standing.settings, parents)
    # A copy begins with its parent's score; a parent without one hands on that which it began with.
    began = np.where(np.isfinite(scores), scores, standing.began)[parents]
    every = population.every_env_steps
    # The next multiple of `every`: an exchange that came late does not put off all that follow.
    new = anew(after, (most_steps // every + 1) * every, began)
    made = Exchange(number, parents, scores, standing.settings, after)
    return new._replace(history=history, exchanges=number), made

  def _settled(
    self,
    who: str,
    given: Any,
    before: Settings,
    parents: np.ndarray,
  ) -> dict[str, list[float]]:
    """Returns the settings of all runs from now on, R numbers by name; checks those given.

    A copy has what explore gave for it, or its parent's value where that is no value of the number.

    Args:
      who: the explore plugin, for messages.
      given: what it gave: by name, [R].
      before: the settings so far.
      parents: of the runs, [R] int.

    Raises:
      UserError: what was given is something else.
    """
    if not isinstance(given, Mapping) or given.keys() != before.keys():
      raise UserError(f"{who} gave no settings of just {', '.join(before)}; wanted: [R] of each.")
    after = {}
    for name, values in before.items():
      chosen = np.asarray(given[name])
      if chosen.shape != (self.size,) or not np.issubdtype(chosen.dtype, np.number):
        raise UserError(
          f"{who} gave {chosen.dtype} {list(chosen.shape)} as '{name}'; wanted: numbers [R] = "
          f"[{self.size}]."
        )
      number, kept = self.numbers[name], []
      for run, parent in enumerate(parents):
        value = values[parent]
        if parent != run:
          new = rounded(float(chosen[run]), number)
          # As float32 it may be at an end that the range leaves out: then it stays the parent's.
          held = math.isfinite(new) and fits(float(np.float32(new)), self.annotations[name])
          value = new if held else value
        kept.append(value)
      after[name] = kept
    return after


def numbers(population: Population, annotations: Mapping[str, Any]) -> dict[str, Number]:
  """What is varied, by name: the ends of its range, or those that `bounds` has, and its scale.

  Raises:
    ValueError: a bound is no value that the number may have.
  """
  found = {}
  for name, annotation in annotations.items():
    of = ranges_of(annotation)
    low = max((r.least for r in of), default=-math.inf)
    high = min((r.greatest for r in of), default=math.inf)
    # From 0 to 1 a number moves by its odds, if it is never negative by factors, else by steps.
    scale = "odds" if (low, high) == (0, 1) else "log" if low >= 0 else "linear"
    number = Number(low, high, scale)
    if bounds := population.bounds.get(name):
      for bound in bounds:
        if not fits(float(bound), annotation):
          raise ValueError(
            f"population.bounds['{name}'] takes {describe(annotation)}, not {bound!r}."
          )
      number = Number(*bounds, scale)
      # A bound that lies at infinity on its scale, 0 for one, leaves no scale but the linear one.
      number = number if number.is_bounded else number._replace(scale="linear")
    found[name] = number
  return found


def rules_of(population: Population, known: Mapping[str, Any], given: Settings, seed: int) -> Rules:
  """The rules of a population.

  Args:
    population: as configured.
    known: annotations of all numbers of its agents and environments, by 'component.field'.
    given: the settings that are configured, R values each; they fit.
    seed: of the training.

  Raises:
    ValueError: nothing is varied, or of fewer than two runs; a bound is of nothing that is, or no
      value of it; a first value lies beyond it; or explore cannot vary such numbers.
  """
  if not given:
    raise ValueError("runs.population varies what runs.settings holds, which is no number.")
  for name in population.bounds:
    if name not in given:
      near = did_you_mean(name, given)
      raise ValueError(f"population.bounds holds '{name}', which runs.settings does not.{near}")
  annotations = {name: known[name] for name in given}
  found = numbers(population, annotations)
  population.explore.check(found)
  runs = len(next(iter(given.values())))
  if runs < 2:
    raise ValueError("runs.population takes two runs or more: give runs.repeats.")
  first = drawn(found, runs, seed) if population.first == "drawn" else given
  for name, values in first.items():
    low, high = found[name].low, found[name].high
    for value in values:
      if not low <= value <= high:
        raise ValueError(
          f"setting '{name}' begins at {value}, beyond population.bounds from {low} to {high}."
        )
  return Rules(population, annotations, first, seed)


def drawn(found: Mapping[str, Number], runs: int, seed: int) -> dict[str, list[float]]:
  """Draws first values between bounds, evenly in coordinates; R numbers each.

  Raises:
    ValueError: one has no bounds.
  """
  # The start counts as exchange 0; the first one that replaces runs is number 1.
  rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(STREAM, 0)))
  values = {}
  for name, number in found.items():
    if not number.is_bounded:
      raise ValueError(f"population.first = 'drawn' takes bounds: population.bounds['{name}'].")
    low, high = number.coordinate(np.array([number.low, number.high]))
    x = number.value(rng.uniform(low, high, runs))
    values[name] = [rounded(float(value), number) for value in x]
  return values


def rounded(value: float, number: Number) -> float:
  """The value with as many digits as float32 has, and within its ends."""
  return float(np.clip(float(f"{value:.{DIGITS}g}"), number.low, number.high))


def checked_parents(who: str, given: Any, scores: np.ndarray) -> np.ndarray:
  """The parents that an Exploit gave, int [R].

  Raises:
    UserError: they are no numbers of runs with scores.
  """
  parents, runs = np.asarray(given), np.arange(len(scores))
  if parents.shape != runs.shape or not np.issubdtype(parents.dtype, np.integer):
    raise UserError(
      f"{who} gave {parents.dtype} {list(parents.shape)} as parents; wanted: integers [R] = "
      f"[{len(runs)}]."
    )
  if parents.min() < 0 or parents.max() >= len(runs):
    raise UserError(f"{who} gave parents {parents.tolist()}; there are runs 0 to {len(runs) - 1}.")
  for run in np.flatnonzero(parents != runs):
    if np.isnan(scores[run]) or not np.isfinite(scores[parents[run]]):
      raise UserError(
        f"{who} made run {run} a copy of run {parents[run]}; their scores are {scores[run]} and "
        f"{scores[parents[run]]}: neither is to be NaN, nor the parent's infinite."
      )
  return parents


def inherited(states: RunState, parents: Array) -> RunState:
  """The states after an exchange: learners are those of the parents.

  A learner is parameters, optimiser, meta state and count of updates; what a run draws from, its
  environments and what it has counted of them stay its own. A meta state may hold what belongs to
  the parent's environments, an eligibility trace or batches: these are copied with it.

  Args:
    states: of the runs, [R', ...].
    parents: int [R'].
  """
  # With a lag `acting` comes along: what acts are earlier parameters of the same learner.
  learner, acting = jax.tree.map(lambda x: x[parents], (states.learner, states.acting))
  # The key stays its own: a copy that drew as its parent does would repeat it.
  return states._replace(learner=learner._replace(key=states.learner.key), acting=acting)

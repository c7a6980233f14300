"""Exchanges of a population while it trains: when, of which states, and what is written of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..api.contracts import phases_of
from ..api.errors import UserError
from ..api.online import RunState
from ..experiment import IndependentRuns, Train
from ..record import lineage
from .device import Runs
from .pool import PoolRuns
from .population import Rules
from .standing import Standing


class Exchanges:
  """Lets runs take over from each other, and writes their lineage."""

  def __init__(self, rules: Rules, runs: Runs | PoolRuns, path: Path):
    """Takes the runs, which have made no step.

    Args:
      rules: how the population exchanges.
      runs: its members.
      path: of the file of its lineage.
    """
    self._rules, self._runs, self._path = rules, runs, path
    self.standing = rules.begin()

  def begin(self, saved: Any, resumed_at: int) -> None:
    """Goes on from where a checkpoint was, if there was one.

    Args:
      saved: the standing in its document; None of a new population.
      resumed_at: env steps of the checkpoint, 0 of a new population.
    """
    lineage.begin(self._path, resumed_at)
    if saved is not None:
      # The runs were made with their first settings, which exchanges may have changed since.
      self.standing = Standing.from_json(saved)
      self._runs.take(self.standing.settings)
    else:
      lineage.append(self._path, lineage.start(self.standing.settings).rows(0))

  def look(
    self, states: RunState, found: Sequence[Sequence[tuple[float, int]]], env_steps: int
  ) -> RunState:
    """Counts episodes, and makes an exchange if it is time; `states` are donated.

    Args:
      states: of the runs, [R', ...].
      found: return and length of the episodes that ended since the last look, by run.
      env_steps: made by all runs together.

    Returns:
      The states [R', ...].
    """
    # Counted first: scores of an exchange hold the episodes that have just ended.
    self.standing, runs = self.standing.counted(found), self._runs
    diverged = runs.of_each(states.learner.failure) >= 0
    ended = ~(runs.of_each(runs.members.active(states)) | diverged)
    # Where all runs have come to their end there is no step left, and no exchange.
    most = int(runs.of_each(states.env_steps)[~ended].max(initial=0))
    if most < self.standing.due:
      return states
    self.standing, made = self._rules.exchange(self.standing, diverged, ended, most)
    # On the disk before a checkpoint can hold the exchange: no resumed run writes these rows again.
    lineage.append(self._path, made.rows(env_steps))
    if made.copies:
      states = runs.inherit(states, made.parents)
      runs.take(made.after)
    return states

  def of_each(self) -> dict[str, np.ndarray]:
    """Metrics of each run, [R]: its settings."""
    settings = self.standing.settings.items()
    return {
      f"{lineage.SETTINGS}{name}": np.asarray(values, np.float32) for name, values in settings
    }


def check_every(experiment: Train, runtime: IndependentRuns) -> None:
  """Refuses exchanges that are to be more frequent than the looks of the host.

  Raises:
    UserError: says how often that looks.
  """
  assert runtime.population is not None
  every = runtime.population.every_env_steps
  # Env steps of one run between two looks: an iteration makes an update for every phase.
  look = runtime.iterations * phases_of(experiment.agent.metaopt) * experiment.steps_per_update
  if every < look:
    raise UserError(
      f"population.every_env_steps = {every}: the host looks at the runs every {look} env steps of "
      f"each (runs.iterations = {runtime.iterations}); write at least that, or fewer "
      "runs.iterations."
    )

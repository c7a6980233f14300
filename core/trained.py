"""Runs in Python, for notebooks and programs: settings, tables, plot, scores and policy."""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import config as configuration
from . import train as training
from .api import jsonl
from .api.errors import RunError, UserError
from .evaluation import evaluate as evaluation
from .evaluation.policy import Policy, policy_of
from .record import metrics, plotting
from .record.workdir import Workdir, default

if TYPE_CHECKING:
  from matplotlib.figure import Figure
  from pandas import DataFrame


ARGUMENTS = {  # of the functions here, by the options of the commands that do the same
  "--bind": "binding",
  "--episodes": "episodes",
  "--init-from": "init_from",
  "--max-steps": "max_steps",
  "--resume": "resume=True",
  "--seed": "seed",
  "--trust": "trusted=True",
  "--video": "video",
  "--workdir": "workdir",
}
# Columns that tables have before any row does: a notebook may look at a young run.
_METRICS = ("env_steps", "wall_time", "episodes", "episode_return", "episode_length")
_EPISODES = ("env_steps", "return", "length")

# `\b` keeps `--seed` from being replaced within a longer option.
_OPTION = re.compile(rf"({'|'.join(ARGUMENTS)})\b")


@contextlib.contextmanager
def _as_arguments() -> Iterator[None]:
  """Has mistakes within it name arguments of Python, in place of options of a command."""
  try:
    yield
  except (UserError, RunError) as error:
    # The same error is raised again: type, cause and traceback stay, only the text changes.
    error.args = (_OPTION.sub(lambda found: ARGUMENTS[found[1]], str(error)),)
    raise


# What `contextmanager` makes is a decorator too, which enters a new context at every call.
evaluate = _as_arguments()(evaluation.evaluate)


@dataclasses.dataclass(frozen=True)
class Run:
  """A run, by what it has left in its folder.

  Attributes:
    workdir: the folder.
    config: every setting in use, 'component.field' -> value.
    step: the update whose checkpoint acts and is scored; None for the newest whole one.
  """

  workdir: Path
  config: Mapping[str, Any] = dataclasses.field(repr=False)
  step: int | None = None
  trusted: bool = False  # modules in the workdir may be imported

  @property
  def metrics(self) -> "DataFrame":
    """Rows of metrics.jsonl as it is now, one every `train.log_seconds`.

    Until an episode has ended, the columns of its return and length are there and hold nothing.
    """
    return self._table("metrics.jsonl", metrics.read, _METRICS)

  @property
  def episodes(self) -> "DataFrame":
    """Rows of episodes.jsonl as it is now, one a finished episode; its columns are always there."""
    return self._table("episodes.jsonl", jsonl.read, _EPISODES)

  @property
  def lineage(self) -> "DataFrame":
    """Rows of lineage.jsonl of a population as it is now, one for each run at every exchange."""
    writer = "a population, runs.population = @population()"
    return self._table("lineage.jsonl", jsonl.read, writer=writer)

  def evaluate(
    self, episodes: int = 100, greedy: bool = False, seed: int = 0, video: Path | str | None = None
  ) -> dict[str, Any]:
    """Plays full episodes in other environments; see `core.evaluation.evaluate.evaluate`."""
    return evaluate(self.workdir, episodes, greedy, seed, self.step, video, trusted=self.trusted)

  def policy(self, greedy: bool = False, seed: int = 0) -> Policy:
    """Loads the agent to act in your own program; see `core.evaluation.policy.policy_of`."""
    return policy_of(Workdir(self.workdir, self.trusted), self.step, greedy, seed)

  def plot(self) -> "Figure":
    """Draws the return and every self-tuned number against env steps.

    It is made without pyplot, so a notebook shows it after `%matplotlib inline`.
    """
    return plotting.figure([self.workdir])

  def _table(
    self,
    name: str,
    read: Callable[[Path], Iterable[Mapping[str, Any]]],
    columns: Sequence[str] = (),
    writer: str = "@jsonl() among train.writers",
  ) -> "DataFrame":
    import pandas as pd  # here, for it takes its time and not everybody wants a table

    path = self.workdir / name
    if not path.is_file():
      raise UserError(f"{path} does not exist: it is written by {writer}.")
    table = pd.DataFrame(read(path))
    return table.reindex(columns=table.columns.union(columns, sort=False))


@_as_arguments()
def train(
  config: str | Path,
  bindings: str | Sequence[str] = (),
  workdir: Path | str | None = None,
  resume: bool = False,
  init_from: str | None = None,
) -> Run:
  """Trains an agent, as `selftune train` does. An interrupt saves and ends the run.

  Args:
    config: a gin file or the name of a packaged one, such as `experiments/catch_stacx`.
    bindings: further gin bindings; one string may hold several, a line each.
    workdir: where everything goes; None for runs/<config>_seed<seed>.
    resume: go on with the run in the workdir, from its newest whole checkpoint.
    init_from: the first weights are those of a checkpoint, PATH[@STEP].

  Returns:
    The run, ended or interrupted.

  Raises:
    UserError: a mistake in any of these; nothing was created then.
    RunError: the run cannot go on; the last good checkpoint is intact.
  """
  config, bindings = str(config), [bindings] if isinstance(bindings, str) else bindings
  # The default name holds the seed, which only the loaded configuration knows.
  if workdir is None:
    workdir = default(config, configuration.load(config, bindings).root.seed)
  training.train(config, bindings, Path(workdir), resume, init_from)
  return load(workdir)


@_as_arguments()
def load(workdir: Path | str, step: int | None = None, trusted: bool = False) -> Run:
  """Opens the run in a workdir, finished or not.

  Args:
    workdir: its folder.
    step: the update whose checkpoint is meant; None for the newest whole one.
    trusted: modules in the workdir may be imported.

  Raises:
    UserError: there is no run, or its configuration does not load.
  """
  # The configuration is read here, so that a folder without a run is refused at once.
  return Run(Path(workdir), Workdir(Path(workdir), trusted).load().flat, step, trusted)

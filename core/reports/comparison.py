"""Comparison of finished runs: which are of one agent, on which task each is; matrices of scores.

Runs of one agent have equal configurations, but for the seed, the environment, and what a resumed
run may change. Environments that differ are tasks.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..api import jsonl
from ..api.contracts import ScoredPlugin
from ..api.errors import UserError
from ..api.registry import configurables, name_of
from ..evaluation.scores import normalised
from ..experiment import Train
from ..record.labels import holding, stem
from ..record.workdir import Workdir, identity

POINTS = 30  # of learning curves


class Run(NamedTuple):
  """A run that was read from its workdir."""

  path: Path
  seed: int
  total_env_steps: int
  agent: dict[str, str]  # bindings that runs of one agent share
  task: dict[str, str]  # bindings of the environment
  env: Any
  curve: np.ndarray  # [N, 2]: env steps and raw return


class Comparison(NamedTuple):
  """Scores of A agents on M tasks, the same number of runs on each task of an agent."""

  tasks: list[str]
  scores: dict[str, np.ndarray]  # agent -> [runs, M]
  curves: dict[str, np.ndarray]  # agent -> [runs, M, POINTS]
  env_steps: np.ndarray  # [POINTS] of the curves; scores are those at the last
  normalised: bool  # by the tasks' reference scores; else raw returns
  differences: dict[str, dict[str, str]]  # binding -> agent -> value, where agents differ
  runs: dict[str, list[Run]]  # agent -> its runs


def compare(
  workdirs: Sequence[Path],
  at: int | None = None,
  evaluations: bool = False,
  trusted: bool = False,
) -> Comparison:
  """Reads runs and groups them by agent and task.

  Args:
    workdirs: of the runs.
    at: env steps at which to compare; None for the end of runs that are all of one length.
    evaluations: scores are those of `eval.jsonl`, not the returns of training.
    trusted: modules in the workdirs may be imported.

  Raises:
    UserError: there is no run or no score, a run has not come so far, or runs do not fit together.
  """
  runs = [_read(path, evaluations, trusted) for path in holding(workdirs, "config.gin")]
  env_steps = np.linspace(*_range(runs, at), POINTS)
  agents = _agents(runs)
  tasks = _tasks(runs)
  matrices = {agent: _matrix(agent, mine, tasks) for agent, mine in agents.items()}
  # Returns of one task compare as they are; those of several only by reference scores of all.
  by_reference = all(isinstance(run.env, ScoredPlugin) for run in runs)
  if not by_reference and len(set(tasks.values())) > 1:
    lost = sorted({name_of(run.env) for run in runs if not isinstance(run.env, ScoredPlugin)})
    raise UserError(
      f"returns of different tasks do not compare, and those of {', '.join(lost)} have no "
      "reference scores: give runs of one task."
    )

  # Between rows by straight lines: runs log at times of their own.
  def curve(run: Run) -> np.ndarray:
    returns = np.interp(env_steps, *run.curve.T)
    return normalised(returns, run.env.reference_scores) if by_reference else returns

  curves = {
    agent: np.array([[curve(run) for run in row] for row in matrix])
    for agent, matrix in matrices.items()
  }
  return Comparison(
    sorted(set(tasks.values())),
    {agent: x[..., -1] for agent, x in curves.items()},
    curves,
    env_steps,
    by_reference,
    _differences({agent: mine[0].agent for agent, mine in agents.items()}),
    agents,
  )


def _read(path: Path, evaluations: bool, trusted: bool) -> Run:
  workdir = Workdir(path, trusted)
  loaded = workdir.load()
  root: Train = loaded.root
  if root.runs is not None:
    raise UserError(
      f"{path} holds the runs of @runs() as one: their scores are in its episodes.jsonl."
    )
  file, key = ("eval", "mean") if evaluations else ("metrics", "episode_return")
  rows = path / f"{file}.jsonl"
  points = jsonl.series(jsonl.read(rows) if rows.is_file() else (), key)
  if not points:
    hint = "train with train.evaluation = @evaluation()" if evaluations else "let it go on"
    raise UserError(f"{rows} holds no score yet: {hint}, or leave the run out.")
  of_env = _components(root.env)
  # What is bound of the environment makes the task; all else but the seed makes the agent.
  agent, task = {}, {}
  for name, value in identity(loaded).items():
    component = name.split("/")[-1].partition(".")[0]
    if name == "train.env" or component in of_env:
      task[name] = value
    elif name != "train.seed":
      agent[name] = value
  curve = np.array(points, float)
  return Run(path, root.seed, root.total_env_steps, agent, task, root.env, curve)


def _components(plugin: Any) -> set[str]:
  """Returns the names of a plugin and of those it holds."""
  fields = (getattr(plugin, field.name) for field in dataclasses.fields(plugin))
  held = [value for value in fields if type(value) in configurables().values()]
  return {name_of(plugin)}.union(*map(_components, held))


def _range(runs: Sequence[Run], at: int | None) -> tuple[float, float]:
  """Returns the env steps that curves begin and end at: every run has a score there."""
  lengths = {run.total_env_steps: run.path for run in runs}
  if at is None and len(lengths) > 1:
    told = ", ".join(f"{steps:,} env steps in {path}" for steps, path in lengths.items())
    raise UserError(
      f"the runs are of different lengths ({told}): say where to compare them, --at {min(lengths)}."
    )
  end = at or min(lengths)
  # Every curve has begun there: interpolation would else repeat the first score of a late one.
  begin = max(run.curve[0, 0] for run in runs)
  for run in runs:
    made = int(run.curve[-1, 0])
    if made < end:
      later = f"compare at --at {made}" if made else "evaluate more often"
      raise UserError(
        f"{run.path} has scores up to {made:,} of {end:,} env steps: resume it, leave it out, or "
        f"{later}."
      )
  if begin >= end:
    raise UserError(f"--at {end}: the first score that every run has is at {begin:.0f} env steps.")
  return begin, end


def _agents(runs: Sequence[Run]) -> dict[str, list[Run]]:
  """Groups runs by agent, named by what the names of its workdirs begin with."""
  groups: list[list[Run]] = []
  for run in runs:
    # Not by a dict: a configuration is itself one, and there are few agents.
    same = [group for group in groups if group[0].agent == run.agent]
    if same:
      same[0].append(run)
    else:
      groups.append([run])
  named: dict[str, list[Run]] = {}
  for group in groups:
    name = _common([stem(run.path) for run in group]) or "agent"
    names = itertools.chain([name], (f"{name} {i}" for i in itertools.count(2)))
    named[next(free for free in names if free not in named)] = group
  return named


def _common(names: Sequence[str]) -> str:
  """Returns the words that all of the names begin with."""
  words = [name.split("_") for name in names]
  same = itertools.takewhile(lambda column: len(set(column)) == 1, zip(*words, strict=False))
  return "_".join(column[0] for column in same)


def _tasks(runs: Sequence[Run]) -> dict[Path, str]:
  """Names the task of each run: by what of its environment differs between runs, or as a whole."""
  keys = {key for run in runs for key in run.task}
  differ = sorted(key for key in keys if len({run.task.get(key) for run in runs}) > 1)
  return {
    run.path: " ".join(run.task[key] for key in differ if key in run.task) or _name(run.env)
    for run in runs
  }


def _name(env: Any) -> str:
  """Names a plugin and what it says in words: `envpool Catch-v0`, `atari breakout paper`."""
  values = (getattr(env, field.name) for field in dataclasses.fields(env))
  return " ".join([name_of(env), *(value for value in values if isinstance(value, str))])


def _matrix(agent: str, runs: Sequence[Run], tasks: Mapping[Path, str]) -> list[list[Run]]:
  """Arranges an agent's runs as a matrix [runs, M tasks], in order of seeds."""
  columns: dict[str, dict[int, Run]] = {task: {} for task in sorted(set(tasks.values()))}
  for run in runs:
    column = columns[tasks[run.path]]
    if run.seed in column:
      raise UserError(
        f"{run.path} and {column[run.seed].path} are of one configuration and seed: leave one out."
      )
    column[run.seed] = run
  counts = {task: len(column) for task, column in columns.items()}
  if len(set(counts.values())) > 1:
    told = ", ".join(f"{count} of {task}" for task, count in counts.items())
    raise UserError(f"{agent} has {told}: every agent needs as many runs on each task.")
  # Row i holds the i-th seed of each task: which seeds these are may differ between tasks.
  ordered = [[column[seed] for seed in sorted(column)] for column in columns.values()]
  return [list(row) for row in zip(*ordered, strict=True)]


def _differences(agents: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
  """Returns the bindings in which agents differ, with each agent's value."""
  keys = sorted({key for bindings in agents.values() for key in bindings})
  table = {key: {a: bindings.get(key, "") for a, bindings in agents.items()} for key in keys}
  return {key: row for key, row in table.items() if len(set(row.values())) > 1}

"""Scores of a grid of agents, tasks and seeds: tables, aggregates, learning curves."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ....core.api import Result, final
from .variants import VARIANTS

POINTS = 200  # of a learning curve


class Scale(NamedTuple):
  """A scale, on which the returns of several tasks become one number."""

  unit: str
  score: Callable[[str, Any], Any]  # task, raw return -> score
  over_tasks: Callable[..., Any]  # np.mean or np.median: (scores, axis) -> aggregate
  reported: Mapping[str, float]  # agent -> aggregate, where the paper's text has it


def by_agent(results: Sequence[Result]) -> dict[str, dict[str, list[Result]]]:
  """Groups results by agent, then by task: the runs of its seeds."""
  found: dict[str, dict[str, list[Result]]] = {}
  for result in results:
    columns = result.cell.columns
    found.setdefault(columns["agent"], {}).setdefault(columns["task"], []).append(result)
  return found


def table(scale: Scale, results: list[Result]) -> list[Mapping[str, Any]]:
  """Returns a row a run: agent, task and seed; return and score over the last 100 episodes."""
  rows = []
  for result in results:
    raw, task = final(result.returns), result.cell.columns["task"]
    played = int((~np.isnan(result.returns)).sum())
    scored = {"episodes": played, "return": raw, "score": scale.score(task, raw)}
    rows.append({**result.cell.columns, **scored})
  return rows


def aggregate(scale: Scale, tasks: Mapping[str, list[Result]]) -> float:
  """Aggregates the scores of an agent's tasks, each the mean over its seeds."""
  # Over seeds first, then over tasks: the paper's order (section 4.1).
  of_tasks = [
    np.mean([scale.score(t, final(r.returns)) for r in runs]) for t, runs in tasks.items()
  ]
  return float(scale.over_tasks(of_tasks))


def curve(scale: Scale, tasks: Mapping[str, list[Result]]) -> tuple[np.ndarray, np.ndarray]:
  """Returns env steps [POINTS] that all runs have a score at, and the aggregate there, [POINTS].

  Both are empty where some run has no score, or they have no env steps in common.
  """
  series = {task: [logged_returns(run) for run in runs] for task, runs in tasks.items()}
  every = [one for runs in series.values() for one in runs]
  if min(len(steps) for steps, _ in every) == 0:
    return np.empty(0), np.empty(0)
  # Env steps that every run has: beyond a run's own np.interp would hold its curve constant.
  begin, end = max(steps[0] for steps, _ in every), min(steps[-1] for steps, _ in every)
  steps = np.linspace(begin, end, POINTS if begin <= end else 0)
  of_tasks = [
    np.mean([scale.score(task, np.interp(steps, *one)) for one in runs], axis=0)
    for task, runs in series.items()
  ]
  return steps, scale.over_tasks(of_tasks, axis=0)


def logged_returns(result: Result) -> tuple[np.ndarray, np.ndarray]:
  """Returns env steps and mean raw return of the last 100 episodes, [N] each, where logged."""
  returns = result.metrics.get("episode_return", np.empty(0))
  # A log without a finished episode has no such column; then both are empty.
  steps = result.metrics["env_steps"][: len(returns)]
  return steps[~np.isnan(returns)], returns[~np.isnan(returns)]


def draw(scale: Scale, results: list[Result]) -> Any:
  """Draws left the aggregate against env steps, right a bar an agent at the end."""
  from matplotlib.figure import Figure as Page

  agents = by_agent(results)
  page = Page(figsize=(11, max(3.6, 0.4 * len(agents))), layout="constrained")
  left, right = page.subplots(1, 2)
  for name, tasks in agents.items():
    left.plot(*curve(scale, tasks), label=VARIANTS[name].title, lw=1.2)
  left.set(xlabel="env steps", ylabel=scale.unit)
  left.legend(fontsize=7)
  titles = [VARIANTS[name].title for name in agents]
  right.barh(titles, [aggregate(scale, tasks) for tasks in agents.values()])
  right.invert_yaxis()  # the first agent on top
  right.set(xlabel=scale.unit)
  return page


def claims(scale: Scale, said: str, results: list[Result]) -> list[str]:
  """Says what the paper says; each agent's aggregate, beside the paper's if any; the order."""
  agents = by_agent(results)
  scores = {name: aggregate(scale, tasks) for name, tasks in agents.items()}
  lines = [f"the paper: {said}"]
  for name, value in scores.items():
    tasks, seeds = len(agents[name]), max(map(len, agents[name].values()))
    beside = f" (the paper: {scale.reported[name]:g})" if name in scale.reported else ""
    lines.append(
      f"{VARIANTS[name].title}: {value:.1f}{beside}, {scale.unit}, "
      f"{tasks} task{'s' * (tasks > 1)}, {seeds} seed{'s' * (seeds > 1)}"
    )
  # NaN of an agent that lacks scores would leave the order to chance.
  order = sorted((n for n in scores if not np.isnan(scores[n])), key=lambda n: -scores[n])
  return [*lines, "here, from the best: " + "; ".join(VARIANTS[name].title for name in order)]

"""Snake-6x6: returns and tuned discounts, with an outer critic and without."""

from typing import Any

import numpy as np

from ....core.api import Cell, Cost, Figure, Result, bound

EXPERIMENT, SEEDS, ENV_STEPS = "experiments/snake_outer_critic", 10, 75_000_000
# As metrics are named: tuned/<component>.<field>/<head>.
GAMMA = "tuned/gae.gamma/0"
AGENTS = {  # name -> what is bound, colour
  "gamma 0.8 fixed": (
    (
      "metagradient.tune = ()",
      # Nothing is tuned here, and a pattern that matches nothing tuned is an error.
      "metagradient.eta_init_of = {}",
      "gae.gamma = 0.8",
      "outer.critic = 'none'",
    ),
    "tab:gray",
  ),
  "metagradient": (("outer.critic = 'none'",), "tab:blue"),
  "metagradient + outer critic": ((), "tab:green"),
  "BMG": (
    (
      "outer.critic = 'none'",
      "metagradient.bootstrap = @bootstrap()",
      # The paper's rate for BMG, twice that of metagradients.
      "metagradient.learning_rate = 6e-3",
    ),
    "tab:orange",
  ),
  "BMG + outer critic": (
    ("metagradient.bootstrap = @bootstrap()", "metagradient.learning_rate = 6e-3"),
    "tab:red",
  ),
}
PUBLISHED = {  # return after 20 % and 100 % of 75 M steps, gamma after 2 %; means of 10 seeds
  "gamma 0.8 fixed": (9.6, 17.4, 0.8),
  "metagradient": (10.3, 24.9, 0.856),
  "metagradient + outer critic": (15.0, 34.2, 0.912),
  "BMG": (9.1, 24.0, 0.832),
  "BMG + outer critic": (12.8, 31.6, 0.890),
}


def cells(seeds: int, agents: tuple[str, ...] = tuple(AGENTS)) -> tuple[Cell, ...]:
  """Returns a cell an agent, of so many runs."""
  return tuple(
    Cell(
      name.replace(" ", "_").replace("+", "and"),
      {"agent": name},
      EXPERIMENT,
      # All seeds of an agent are one program, whose rows are means over them.
      (*AGENTS[name][0], f"runs.repeats = {seeds}"),
    )
    for name in agents
  )


def draw(results: list[Result]) -> Any:
  """Draws the mean return of all seeds over env steps, and the tuned discount."""
  from matplotlib.figure import Figure as Page

  page = Page(figsize=(10.4, 3.4), layout="constrained")
  left, right = page.subplots(1, 2)
  for result in results:
    name, steps = result.cell.columns["agent"], result.metrics["env_steps"]
    steps = steps / len(result.settings)  # of each run
    colour = AGENTS[name][1]
    left.plot(steps, result.metrics["episode_return"], color=colour, label=name, lw=1.2)
    if GAMMA in result.metrics:
      right.plot(steps, result.metrics[GAMMA], color=colour, label=name, lw=1.2)
  left.set(title="return", xlabel="env steps of each run")
  right.set(title="tuned discount", xlabel="env steps of each run")
  left.legend(fontsize=7)
  return page


def claims(results: list[Result]) -> list[str]:
  """Says return and discount of every agent at the end, beside the published ones."""
  lines = []
  for result in results:
    name = result.cell.columns["agent"]
    early, late, gamma = PUBLISHED[name]
    line = f"{name}: return {result.metrics['episode_return'][-1]:.2f}"
    if GAMMA in result.metrics:
      line += f", gamma {at(result, 1_500_000, GAMMA):.3f} at 1.5 M steps or at the end before"
      line += f" (published {gamma:.3f})"
    lines.append(f"{line}. Published: {early} at 15 M steps, {late} at 75 M")
  lines.append("the paper: the outer critic's agents pass those without, and its gamma goes to 1")
  return lines


def at(result: Result, env_steps: int, name: str) -> float:
  """Returns a metric's mean over runs when each had made so many env steps, or at the end."""
  # Rows count the env steps of all runs together.
  steps = result.metrics["env_steps"] / len(result.settings)
  return float(np.interp(env_steps, steps, result.metrics[name]))


def table(results: list[Result]) -> list[dict[str, Any]]:
  """Returns a row for each that an agent has logged: runs, env steps, return and discount."""
  rows = []
  for result in results:
    # Not of episodes, as other figures': there are millions. A fixed discount is in no metric.
    gammas = result.metrics.get(GAMMA, np.full(len(result.metrics["env_steps"]), np.nan))
    columns = (result.metrics["env_steps"], result.metrics["episode_return"], gammas)
    for steps, score, gamma in zip(*columns, strict=True):
      rows.append(
        {
          "agent": result.cell.columns["agent"],
          "runs": len(result.settings),
          "env_steps": steps,
          "return": score,
          "gamma": gamma,
        }
      )
  return rows


FIGURE = Figure(
  "Snake-6x6: metagradients and BMG with and without an outer critic, against a fixed discount",
  Cost(len(AGENTS) * SEEDS, ENV_STEPS, "not yet measured", "GPU"),
  cells(SEEDS),
  bound(cells(2), ("train.total_env_steps = 150_000",)),
  draw,
  claims,
  table,
)

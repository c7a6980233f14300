"""The report of `selftune study`: one HTML page, its figures as PNGs, and `study.json`."""

import datetime
import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..api import files
from ..api.errors import UserError
from ..record.drawing import save
from . import markup, study_figures
from .results import Row, arranged, described, read
from .study import NONE, Found, Place, evaluate
from .study_figures import Moved

LISTED = 200  # runs that are missing, at most
_LOG = logging.getLogger(__name__)

TITLES = {
  "sensitivity": "Sensitivity",
  "scores": "Score in each environment",
  "dimension": "Effective dimension",
  "search": "Score against the number of settings tried",
  "profiles": "Performance profiles",
  "moved": "How far tuned numbers moved",
}
SAID = {
  "sensitivity": """Up is a better score where each environment has the setting that suits it best,
left is less to be gained by that over one setting for all. Lines: 95 % intervals.""",
  "scores": """Interquartile mean over seeds, and its interval (rliable). The best of many settings
is the best by luck, too: the fewer the seeds, the more of it.""",
  "dimension": """The others stay at the setting for all. The effective dimension is the least
number that reaches 95 % of the score with all tuned.""",
  "search": """The expected best of N of the agent's settings, drawn at random without replacement,
in each environment apart; a mean over environments.""",
  "profiles": """All settings and seeds of an agent: a profile that stays high is one of an agent
that does not mind its settings.""",
  "moved": "From the first row of the log (|) to the last (dot); medians over all runs.",
}


def report(rows: Sequence[Row], out: Path, resamples: int = 2000) -> str:
  """Writes `index.html`, its figures and `study.json` into the folder `out`.

  Args:
    rows: of which no two are of one run.
    out: made if it is not there.
    resamples: of the bootstraps.

  Returns:
    The table of agents, for the terminal.

  Raises:
    UserError: no run has a score, or rliable is not installed.
    RunError: something cannot be written.
  """
  found = evaluate(arranged(rows), resamples)
  moves = moved(rows)
  figures = study_figures.draw(found, moves)
  files.make_folder(out)
  save({out / f"{name}.png": figure for name, figure in figures.items()})
  files.write(out / "study.json", json.dumps(numbers(found, moves), indent=1) + "\n")
  table = agent_table(found)
  # After the figures: the page holds the bytes of their files.
  text = _page(found, moves, table, {name: out / f"{name}.png" for name in figures}, resamples)
  files.write(out / "index.html", text.encode("utf-8", "backslashreplace").decode())  # odd names
  return markup.text(table)


def report_csv(path: Path, out: Path, resamples: int = 2000) -> str:
  """Writes what `report` does from a CSV of anybody's results; see `core.reports.results`.

  Returns:
    The table of agents, and where the page is.

  Raises:
    UserError: it is no such CSV, or as `report`.
  """
  if resamples < 1:
    raise UserError(f"--resamples {resamples} must be at least 1.")
  files.check_folder(out, f"--out {out}")
  rows, unknown = read(path)
  if unknown:
    _LOG.warning("%s: columns that mean nothing here: %s", path, ", ".join(unknown))
  return f"{report(rows, out, resamples)}\n{out / 'index.html'}"


def agent_table(found: Found) -> list[list[str]]:
  """Returns header and rows: an agent, what was tried of it, and what tuning is worth to it."""
  header = ["agent", "settings", "seeds", "tuned", "one for all", "sensitivity", "dimension"]
  rows = [header]
  for agent, worth in found.worth.items():
    _, settings, seeds = found.results.scores[agent].shape
    of_d = worth.of_k.shape[1] - 1
    d, low, high = worth.dimension
    dimension = "—" if math.isnan(d) else f"{d:.0f} of {of_d} ({low:.0f} to {high:.0f})"
    estimates = worth.tuned, worth.common, worth.sensitivity
    rows.append([agent, str(settings), str(seeds), *map(_estimate, estimates), dimension])
  return rows


def numbers(found: Found, moves: Moved) -> dict[str, Any]:
  """Returns the numbers of the page as JSON has them; what is not known is null."""
  results = found.results
  settings = {agent: [dict(s) for s in of] for agent, of in results.settings.items()}
  worth = {}
  for agent, of in found.worth.items():
    arrays = {name: value for name, value in of._asdict().items() if isinstance(value, np.ndarray)}
    chosen = [None if h == NONE else settings[agent][h] for h in (of.star, *of.best)]
    best = dict(zip(results.environments, chosen[1:], strict=True))
    worth[agent] = arrays | {"setting for all": chosen[0], "best settings": best}
  of_places = lambda of: [{"agent": a, "environment": e, "score": x} for (a, e), x in of.items()]
  return _plain(
    {
      "environments": results.environments,
      "settings": settings,
      "agents": worth,
      "scores at the setting for all": of_places(found.at_star),
      "scores at the best settings": of_places(found.at_best),
      "thresholds": found.thresholds,
      "profiles": {a: [x, *found.profiles.interval[a]] for a, x in found.profiles.point.items()},
      "tries to match": [{"of": b, "match": a, "tries": n} for (a, b), n in found.tries.items()],
      "moved": {
        name: [
          {"agent": a, "environment": e, "first": x[0], "last": x[1], "distance": x[2]}
          for (a, e), x in of.items()
        ]
        for name, of in moves.items()
      },
      "missing": results.missing,
    }
  )


def _plain(value: Any) -> Any:
  if isinstance(value, np.ndarray):
    return _plain(value.tolist())
  if isinstance(value, Mapping):
    return {key: _plain(of) for key, of in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(of) for of in value]
  # JSON has neither NaN nor infinity.
  return None if isinstance(value, float) and not math.isfinite(value) else value


def moved(rows: Sequence[Row]) -> Moved:
  """Measures how far each tuned number went, over all runs of an agent in an environment."""
  runs: dict[str, dict[Place, list[tuple[float, float]]]] = {}
  for row in rows:
    for name, last in row.last.items():
      first = row.first.get(name, math.nan)
      # Of a run that logged one end only, it is not known how far the number went.
      if math.isfinite(first) and math.isfinite(last):
        of = runs.setdefault(name, {}).setdefault((row.agent, row.environment), [])
        of.append((first, last))
  found: Moved = {}
  for name, places in runs.items():
    found[name] = {}
    for place, pairs in places.items():
      first, last = np.array(pairs).T
      middle = float(np.median(first)), float(np.median(last))
      found[name][place] = *middle, float(np.abs(last - first).mean())
  return found


def _page(
  found: Found,
  moves: Moved,
  table: list[list[str]],
  figures: Mapping[str, Path],
  resamples: int,
) -> str:
  results = found.results
  runs = len(results.rows)
  introduction = f"""{runs:,} runs of {len(found.worth)} agent(s) in {len(results.environments)}
environment(s); {datetime.date.today()}. Scores are normalised in each environment: 0 and 1 at the
5th and 95th percentile of the mean scores of all agents and settings. Tuned: each environment with
the setting that is best there; one for all: the setting that is best on average; sensitivity is the
difference; dimension is how many hyperparameters have to be tuned to get 95 % of the tuned score
(Adkins, Bowling and White 2024). In brackets and bands: 95 % intervals by {resamples:,} bootstraps
over seeds."""
  parts = [markup.table(table)]
  if results.missing:
    note = f"{len(results.missing):,} not counted as they are: see the end of the page."
    parts.append(f"<p><strong>{note}</strong></p>")
  for name in (name for name in TITLES if name in figures):
    parts.append(f"<h2>{TITLES[name]}</h2><p>{SAID[name]}</p>{markup.image(name, figures[name])}")
    if name == "scores":
      parts.append(markup.table(_score_table(found)))
    if name == "search":
      parts.append(_matching(found))
    if name == "profiles" and found.unprofiled:
      parts.append(f"<p>Left out: {found.unprofiled} settings that lack a run.</p>")
    if name == "moved":
      parts.append(markup.table(_moved_table(moves)))
  parts.append(f"<h2>Time, steps and area under the curve</h2>{_costs(found)}")
  if results.missing:
    more = len(results.missing) - LISTED
    lines = [[line] for line in results.missing[:LISTED]] + [[f"and {more:,} more"]] * (more > 0)
    parts.append(f"<h2>Missing</h2>{markup.table([['run'], *lines])}")
  return markup.document("selftune study", " · ".join(found.worth), introduction, parts)


def _score_table(found: Found) -> list[list[str]]:
  rows = [["agent", "environment", "one for all", "setting", "its own", "setting"]]
  for agent, worth in found.worth.items():
    settings = found.results.settings[agent]
    for environment, h in zip(found.results.environments, worth.best, strict=True):
      cells = [agent, environment]
      for of, number in ((found.at_star, worth.star), (found.at_best, h)):
        at = of.get((agent, environment))
        cells.append("—" if at is None else _estimate(at))
        cells.append("—" if number == NONE else described(settings[number]))
      rows.append(cells)
  return rows


def _matching(found: Found) -> str:
  """Returns HTML: how many tries of one agent are as good as the setting for all of another."""
  agents = list(found.worth)

  def tries(a: str, b: str) -> str:
    if (number := found.tries[a, b]) is not None:
      return str(number)
    # NaN: no setting of a has a score everywhere, or b lacks all scores in some environment.
    if math.isnan(found.worth[a].common[0] + found.worth[b].search[0, 0]):
      return "—"
    return f"more than {len(found.results.settings[b])}"

  rows = [["tries of", *(f"to match {a} untuned" for a in agents)]]
  rows += [[b, *(tries(a, b) for a in agents)] for b in agents]
  said = (
    "How many settings a random search tries in each environment, on average, to be as good as "
  )
  return f"<p>{said}the other agent with its one setting for all.</p>{markup.table(rows)}"


def _moved_table(moves: Moved) -> list[list[str]]:
  rows = [["number", "agent", "environment", "first", "last", "mean distance"]]
  for name, of in moves.items():
    rows += [[name, *place, *(f"{x:.4g}" for x in numbers)] for place, numbers in of.items()]
  return rows


def _costs(found: Found) -> str:
  rows = [["agent", "environment", "runs", "mean return of all training", "env steps", "seconds"]]
  cells: dict[Place, list[Row]] = {}
  for row in found.results.rows:
    cells.setdefault((row.agent, row.environment), []).append(row)
  for place, of in cells.items():
    area = _of((row.auc for row in of), np.mean)
    steps, seconds = (
      _of((getattr(row, name) for row in of), np.sum) for name in ("env_steps", "wall_time")
    )
    told = (f"{area:.4g}", f"{steps:,.0f}", f"{seconds:,.1f}")
    rows.append([*place, str(len(of)), *("—" if x == "nan" else x for x in told)])
  said = "Env steps and seconds are those of all runs together."
  return f"<p>{said}</p>{markup.table(rows)}"


def _of(values: Iterable[float], function: Callable[[np.ndarray], Any]) -> float:
  known = np.array([x for x in values if not math.isnan(x)])
  return float(function(known)) if known.size else math.nan


def _estimate(x: np.ndarray) -> str:
  """Tells a value and its interval, [3], in words."""
  if math.isnan(x[0]):
    return "—"
  return f"{x[0]:.3g} ({x[1]:.3g} to {x[2]:.3g})"

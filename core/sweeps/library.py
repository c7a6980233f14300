"""W&B's library `sweeps`, which chooses points; whatever is wrong is one line that names where."""

import json
import math
import random
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..api.errors import UserError, shortened

Point = dict[str, Any]  # name of a binding -> value: a number, or text as gin writes it

MOST = 10**5  # points of a grid, at most
NUMBERS = ("min", "max", "mu", "sigma", "q", "a", "b")  # keys of a parameter
HUGE = 1e300  # far enough below the greatest float that a difference of two is finite
EXAMPLES = "{values: [1, 2]}, {value: 1} or {min: 0.0, max: 1.0}"
LIMITS = "q and sigma are above 0, and so is the min of log_uniform_values"


class Asked(NamedTuple):
  """The parts of a sweep file that the library is given."""

  path: Path  # of the sweep file, for messages
  method: str
  metric: Mapping[str, Any]
  parameters: Mapping[str, Any]


class Outcome(NamedTuple):
  """How a point ended."""

  point: Point
  status: str  # finished, diverged, failed; or pending, while it has not ended
  metric: float | None = None
  env_steps: int = 0
  seconds: float = 0.0


def suggested(asked: Asked, outcomes: Sequence[Outcome], n: int, seed: int = 0) -> list[Point]:
  """At most n further points; the same for equal arguments.

  Args:
    asked: what a sweep file says.
    outcomes: of the points so far, from which `bayes` learns.
    n: how many.
    seed: of what is drawn.

  Raises:
    UserError: the file says what the library does not know, or the library is not there.
  """
  library = _library()
  for name, spec in asked.parameters.items():
    if problem := _problem(asked.method, name, spec):
      raise UserError(f"{asked.path}: {shortened(f'{name}: {problem}')}")
  # The grid is measured first, as the library lays out all of it whatever n is.
  if asked.method == "grid" and math.prod(map(_size, asked.parameters.values())) > MOST:
    raise UserError(
      f"{asked.path}: a grid of more than {MOST:,} points: give fewer values, or write method: "
      "random and run_cap."
    )
  try:
    points = _ask(library, asked, outcomes, n, seed)
  except Exception as error:  # of any type: the library checks little of what it is given
    raise UserError(f"{asked.path}: {shortened(_reason(library, asked, error))}") from error
  for name, value in (item for point in points for item in point.items()):
    if isinstance(value, float) and not math.isfinite(value):
      spec = shortened(str(asked.parameters[name]))
      raise UserError(f"{asked.path}: {name}: {value} was drawn from {spec}, and is no number.")
  return points


def _problem(method: str, name: Any, spec: Any) -> str | None:
  """What is wrong with a parameter that the library would not say, or not clearly."""
  if not isinstance(name, str):
    return "the name of a binding is text, as train.seed is."
  if not isinstance(spec, dict):
    return f"{spec!r} is no parameter: write {EXAMPLES}."
  if "parameters" in spec:
    return "nested parameters are no bindings: write the whole name, as metatrace.mu."
  for key in NUMBERS:
    value = spec.get(key, 0)
    # `not ... < HUGE` refuses NaN as well, which is not less than anything.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < HUGE:
      return f"{key} is {value!r}, which is no finite number."
  if method == "bayes" and "probabilities" in spec:
    return "method bayes knows no probabilities: leave them out, or write method: random."
  try:
    json.dumps(spec)
  except (TypeError, ValueError) as error:
    return f"{error}: write what is no number as text, in quotes."
  return None


def _size(spec: Mapping[str, Any]) -> int:
  """How many values of a parameter a grid has; 1 of one that no grid can have."""
  if "values" in spec:
    return len(spec["values"]) if isinstance(spec["values"], list) else 1
  least, greatest = spec.get("min", 0), spec.get("max", 0)
  if spec.get("distribution") == "q_uniform":
    step = spec.get("q", 1)
    return math.ceil(min((greatest - least) / step, HUGE)) if step > 0 else 1
  return max(1, int(greatest - least) + 1)


def _ask(library: Any, asked: Asked, outcomes: Sequence[Outcome], n: int, seed: int) -> list[Point]:
  # The names are W&B's: bayes accounts for running points, and takes failed ones for the worst.
  states = {"pending": "running", "diverged": "failed"}
  runs = []
  for outcome in outcomes:
    run = library.SweepRun(config={k: {"value": value} for k, value in outcome.point.items()})
    run.state = library.RunState(states.get(outcome.status, outcome.status))
    run.summary_metrics = {} if outcome.metric is None else {asked.metric["name"]: outcome.metric}
    runs.append(run)
  # The library draws from these: so the same file gives the same points.
  random.seed(seed)
  np.random.seed(seed)
  entries = {key: value for key, value in asked._asdict().items() if key != "path"}
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its Gaussian process, which fits what it can
    found = library.next_runs(entries, runs, validate=True, n=n)
  # A grid that is used up ends with None.
  return [{k: _plain(e["value"]) for k, e in run.config.items()} for run in found if run]


def _reason(library: Any, asked: Asked, error: Exception) -> str:
  """What the library said; of the first parameter that it does not take alone, if there is any."""
  method = "random" if asked.method == "bayes" else asked.method  # bayes takes no constant alone
  for name, spec in asked.parameters.items():
    try:
      _ask(library, asked._replace(method=method, parameters={name: spec}), (), 1, 0)
    except Exception as alone:
      said = _said(alone)
      return f"{'' if name in said else f'{name}: '}{said}. A parameter is {EXAMPLES}; {LIMITS}."
  return _said(error)


def _said(error: Exception) -> str:
  said = str(error).strip().partition("\n")[0].rstrip(".")
  said = said.replace("is not valid under any of the given schemas", "is none that W&B knows")
  return said if isinstance(error, ValueError) or said.count(" ") > 2 else repr(error)


def _plain(value: Any) -> Any:
  """Returns a value as Python has it where it is a scalar of NumPy."""
  return np.asarray(value).item() if np.isscalar(value) else value


def _library() -> Any:
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # of pydantic, about the library's own code
      import sweeps
  except ImportError as error:
    raise UserError(
      f"selftune sweep needs W&B's library 'sweeps' ({error}): pip install 'selftune[sweep]'"
    ) from None
  return sweeps

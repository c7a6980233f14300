"""Points of one experiment as one compiled program: whether they can be, and training them so."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import train as training
from ..api import files
from ..api.contracts import ForAllRuns
from ..api.errors import UserError
from ..api.registry import name_of
from ..record.workdir import Workdir
from ..runs import settings
from ..runs.logs import folder
from .library import Point

Fields = Mapping[str, Sequence[str]]  # name in a point -> 'component.field' that it sets


def fields_of(flats: Sequence[Mapping[str, Any]], points: Sequence[Point]) -> Fields:
  """The fields that each name of the points sets: itself or, of a macro, those that hold it.

  A name sets none where no settings of a program could say what it does: one that a scope has a
  value of its own for, or a macro that is also part of something else, such as a tuple.

  Args:
    flats: the configuration of each point, as `config.Loaded.flat`.
    points: with equal names.
  """
  keys: dict[str, list[str]] = {}  # field -> its keys, one for each scope
  for key in flats[0]:
    keys.setdefault(key.split("/")[-1], []).append(key)
  found: dict[str, tuple[str, ...]] = {}
  for name in points[0]:
    # A flat configuration has no macros. The fields of one are those that have its value at every
    # point, and that in every scope, as a setting of a program counts in all of them.
    wanted = [_number(point[name]) for point in points]
    holds = lambda key, wanted=wanted: wanted == [_number(flat.get(key)) for flat in flats]
    may_be = (name,) if "." in name else keys
    found[name] = tuple(field for field in may_be if all(map(holds, keys.get(field, ()))))
  known = set(itertools.chain.from_iterable(found.values()))
  # What else varies, such as a tuple that holds a macro, no setting could say. It is compared by
  # repr, as values may be lists, and as True equals 1.
  vary = {k.split("/")[-1] for k in flats[0] if len({repr(flat.get(k)) for flat in flats}) > 1}
  return found if vary <= known else {n: of if "." in n else () for n, of in found.items()}


def apart_because(
  root: Any,
  points: Sequence[Point],
  fields: Fields,
  bayes: bool = False,
  launcher: str = "auto",
  crowd: bool = False,
) -> str | None:
  """Why the points cannot be one program; None if they can.

  Args:
    root: the experiment.
    points: with equal names.
    fields: what each name of a point sets, see `fields_of`.
    bayes: whether later points depend on the results of earlier ones.
    launcher: what the user asked for.
    crowd: whether the points are the members of a population.
  """
  if launcher != "auto":
    return f"of --launcher {launcher}"
  if bayes:
    return "bayes chooses a point by the results of those before it"
  if root.runs is None:
    return f"train.runtime is @{name_of(root.runtime)}(), not @runs()"
  if root.runs.population is not None and not crowd:
    return "runs.population varies what a point sets"
  if root.runs.settings or root.runs.repeats > 1:
    return "a point is several runs (runs.settings = {} and runs.repeats = 1 make it one)"
  # A program takes these numbers as inputs; it would be compiled anew for whatever else varies.
  numbers = {"train.seed", *dict(settings.numbers(settings.varied(root)))}
  for name, value in itertools.chain.from_iterable(point.items() for point in points):
    if not fields[name]:
      return f"{name} is not one number: a scope has its own, or it is part of something else"
    if not numbers.issuperset(fields[name]):
      return f"{name} is no number that can vary in one program"
    if _number(value) is None:
      return f"{name} is {value!r} in one of them"
  return None


def together(
  experiment: str,
  bindings: Sequence[str],
  root: Any,
  points: Sequence[Point],
  out: Path,
  fields: Fields,
) -> bool:
  """Trains all points as one program, whose workdir is `out`.

  Args:
    experiment: of all points.
    bindings: of all points.
    root: the experiment, loaded.
    points: of which `apart_because` says nothing.
    out: each point has its logs in runs/<number> there.
    fields: as in `apart_because`.

  Returns:
    Whether a signal stopped it.

  Raises:
    UserError: `out` holds a program of fewer points that has ended.
  """
  # A program that has not ended is refused by `train`, as a run of another configuration.
  if Workdir(out).done.exists() and not folder(out, len(points) - 1).exists():
    raise UserError(
      f"{out} holds fewer points, trained as one program that has ended: choose another --out."
    )
  more = bindings_of_all(root, points, fields)
  if not training.finish(experiment, (*bindings, *more), out):
    return True
  # The last one is marked last: after a kill amid this it has no mark, and all are marked again.
  for number in range(len(points)):
    files.write(Workdir(folder(out, number)).done, "")
  return False


def bindings_of_all(root: Any, points: Sequence[Point], fields: Fields) -> tuple[str, ...]:
  """Returns the bindings that make one program of all points; arguments as in `together`."""
  values = {
    field: tuple(_number(point[name]) for point in points)
    for name in points[0]
    for field in fields[name]
  }
  # A writer such as @terminal() is one for all; of the others each run has its own, as if alone.
  of_all = [writer for writer in root.writers if isinstance(writer, ForAllRuns)]
  of_each = [writer for writer in root.writers if writer not in of_all]
  # What a run must not lose is logged of all together, too: the whole has a history of its own.
  of_all = [writer for writer in of_each if writer.required] + of_all
  # A comma follows every name, so that a single one is a tuple, too.
  listed = lambda writers: f"({''.join(f'@{name_of(writer)}(), ' for writer in writers)})"
  return (
    f"runs.settings = {values!r}",
    "runs.paired = True",
    f"runs.run_writers = {listed(of_each)}",
    f"train.writers = {listed(of_all)}",
  )


def _number(value: Any) -> float | None:
  """The value as a number, also of text that gin reads as one."""
  try:
    return None if isinstance(value, bool) else float(value)
  except (TypeError, ValueError):
    return None

"""A member of a population in a process of its own: a segment of its run, and how that ended."""

import os
from collections.abc import Sequence
from pathlib import Path

import jax

from .. import train as training
from ..api.errors import NonFiniteError
from ..record import segment
from ..record.segment import Reached, Segment
from ..record.workdir import Workdir


def advance(name: str, bindings: Sequence[str], path: Path, part: Segment) -> None:
  """Trains a segment, or what is left of it; `reached.json` says so once it has ended.

  What is compiled is kept in OUT/compiled, unless JAX was told another place: a member whose
  settings stay need not compile again.

  Raises:
    NonFiniteError: a loss or gradient was not finite: the segment has ended, too.
    Exception: as `train` does.
  """
  if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # The workdir of a member is OUT/runs/<number>.
    out = path.absolute().parents[1]
    jax.config.update("jax_compilation_cache_dir", str(out / "compiled"))
  try:
    # A copy resumes its own run, too: from that it has its key, its episodes and its logs.
    progress = training.train(name, bindings, path, Workdir(path).holds_run(), segment=part)
  except NonFiniteError:
    # This is written before the error is raised again: else the member would count as crashed.
    segment.write(path, Reached(part.exchange, diverged=True))
    raise
  # Where a signal stopped the run neither is so, and the segment is still to be ended.
  if progress.done or (progress.env_steps >= part.until and not progress.unscored):
    ended = (progress.done, progress.env_steps, progress.updates)
    segment.write(path, Reached(part.exchange, False, *ended))

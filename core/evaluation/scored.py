"""What was scored last beside training, WORKDIR/scored.json: a resumed run makes up for the rest.

A checkpoint cannot say so: the last one is on the disk before what it holds has been scored.
"""

from pathlib import Path

from ..api import files, jsonl

FILE = "scored.json"


class Scored:
  """The last evaluation of a run whose scores are written.

  Where there is no such file, as in an older run, the run counts as never scored.
  """

  def __init__(self, workdir: Path):
    """Takes the folder of the run."""
    self._path = workdir / FILE

  def write(self, env_steps: int, most: int) -> None:
    """Keeps that the run has been scored; the scores are to be in the logs by then.

    Args:
      env_steps: of the run, or of all runs together.
      most: env steps of the run that made most.

    Raises:
      RunError: it cannot be written.
    """
    files.write(self._path, jsonl.encode({"env_steps": env_steps, "most": most}))

  def due(self, every: int, env_steps: int, most: int) -> int:
    """Returns at how many env steps of a run the next evaluation is due, for a run that begins.

    What was due before the checkpoint and is not written is due at once.

    Args:
      every: env steps between evaluations.
      env_steps: that it begins at, of all runs together; 0 of a new run.
      most: of these, env steps of the run that made most.
    """
    last = self._read()
    # One beyond the checkpoint will be made again; those before it were made before that one.
    if last is not None and last["env_steps"] > env_steps:
      last = {"env_steps": env_steps, "most": most}
      self.write(**last)
    return after(last["most"], every) if env_steps and last is not None else 0

  def owed(self, env_steps: int) -> bool:
    """Says whether a run that ended with so many env steps, of all runs, is still to be scored."""
    last = self._read()
    return last is None or last["env_steps"] < env_steps

  def _read(self) -> dict[str, int] | None:
    return next(jsonl.read(self._path), None) if self._path.is_file() else None


def after(env_steps: int, every: int) -> int:
  """Returns the first multiple of `every` beyond so many env steps."""
  return (env_steps // every + 1) * every

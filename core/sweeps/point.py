"""One point of a sweep, in a process of its own that never outlives the sweep.

Its arguments are EXPERIMENT WORKDIR SEGMENT [NAME=VALUE]...; SEGMENT is empty, or says what a
member of a population is to train.
It saves and ends when its stdin is closed: whoever started it holds the other end, and lets go even
when killed.
"""

import os
import signal
import sys
import threading
from pathlib import Path

DIVERGED = 3  # exit code where a loss or gradient was not finite


def main() -> None:
  # The thread starts before the imports: they take seconds, and the sweep may be killed meanwhile.
  threading.Thread(target=_end_with_parent, daemon=True).start()
  from .. import train as training
  from ..api.errors import NonFiniteError, RunError, UserError
  from ..record.segment import Segment
  from .member import advance

  name, workdir, segment, *bindings = sys.argv[1:]
  try:
    if segment:
      advance(name, bindings, Path(workdir), Segment.from_text(segment))
    else:
      # The exit code is 0 also where a signal stopped it: that it ended is said by the file `done`.
      training.finish(name, bindings, Path(workdir))
  except (UserError, RunError) as error:
    print(f"selftune: {error}", file=sys.stderr)
    sys.exit(DIVERGED if isinstance(error, NonFiniteError) else 1)


def _end_with_parent() -> None:
  # Nothing is ever written to the pipe: the read returns when its other end is closed.
  os.read(0, 1)
  # Training saves on this signal; a process that does not train yet ends at once.
  os.kill(os.getpid(), signal.SIGTERM)

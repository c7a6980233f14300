"""One point of a sweep, in a process of its own that never outlives the sweep.

Its arguments are EXPERIMENT WORKDIR [NAME=VALUE]...
It saves and ends when its stdin is closed: whoever started it holds the other end, and lets go even
when killed.
"""

import os
import signal
import sys
import threading
from pathlib import Path


def main() -> None:
  threading.Thread(target=_end_with_parent, daemon=True).start()
  from .. import train as training
  from ..api.errors import RunError, UserError

  name, workdir, *bindings = sys.argv[1:]
  try:
    training.finish(name, bindings, Path(workdir))
  except (UserError, RunError) as error:
    sys.exit(f"selftune: {error}")


def _end_with_parent() -> None:
  os.read(0, 1)
  os.kill(os.getpid(), signal.SIGTERM)

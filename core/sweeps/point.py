"""One point of a sweep, in a process of its own that never outlives the sweep.

  python -m selftune.core.sweeps.point EXPERIMENT WORKDIR [NAME=VALUE]...

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

  name, workdir, *bindings = sys.argv[1:]
  training.finish(name, bindings, Path(workdir))


def _end_with_parent() -> None:
  os.read(0, 1)
  os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
  main()

"""`selftune`, and `python -m selftune`: a process that ends when it is told to, from the start."""

import sys

from .core.machine import process


def main() -> int:
  """The command line; before anything that takes long to import, as a Ctrl-C may come amid that."""
  process.begin()
  from .core.commands.cli import main

  return main()


if __name__ == "__main__":
  sys.exit(main())

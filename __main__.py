"""`python -m selftune` is `selftune`."""

import sys

from .core.cli import main

sys.exit(main())

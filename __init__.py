"""selftune: reinforcement-learning agents that tune their own hyperparameters while they learn.

What a plugin is made of (`register`, `tunable`, types, contracts, ranges, errors), and `train`,
`evaluate` and `load` for notebooks and programs. Everything is imported when it is first asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .core import api

if TYPE_CHECKING:
  from .core.api import *  # noqa: F403
  from .core.evaluation.policy import Policy
  from .core.trained import Run, evaluate, load, train

__version__ = "0.2.0"

__all__ = ["Policy", "Run", "evaluate", "load", "train"]
__all__ += api.__all__

_ELSEWHERE = {  # the modules of those that are not in core.api
  "Policy": ".core.evaluation.policy",
  "Run": ".core.trained",
  "evaluate": ".core.trained",
  "load": ".core.trained",
  "train": ".core.trained",
}

if not TYPE_CHECKING:  # a type checker would take any name for one that this gives

  def __getattr__(name: str) -> Any:
    if name not in __all__:
      raise AttributeError(f"module 'selftune' has no attribute '{name}'")
    module = importlib.import_module(_ELSEWHERE.get(name, ".core.api"), __name__)
    globals()[name] = getattr(module, name)  # the next time it is found without coming here
    return globals()[name]


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})

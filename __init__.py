"""selftune: reinforcement-learning agents that tune their own hyperparameters while they learn.

What a plugin is made of (`register`, `tunable`, types, contracts, ranges, errors), and `train`,
`evaluate` and `load` for notebooks and programs. Everything is imported when it is first asked for.
"""

# ruff: noqa: F403, F405  the names are those of core.api: a test compares the two
import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from .core.api import *
  from .core.evaluation.evaluate import evaluate
  from .core.evaluation.policy import Policy
  from .core.trained import Run, load, train

__version__ = "0.2.0"

__all__ = [
  "POSITIVE",
  "SCALE",
  "UNIT",
  "ActorParams",
  "AgentFns",
  "Array",
  "Categorical",
  "Components",
  "ConfigError",
  "Corrector",
  "CorrectorInputs",
  "Count",
  "Described",
  "Distribution",
  "Domain",
  "Dots",
  "DrawablePlugin",
  "DrawnEnvironment",
  "EnvPlugin",
  "EnvSpec",
  "Environment",
  "Episode",
  "Fraction",
  "FunctionalEnvironment",
  "HeadOut",
  "Histogram",
  "LearnerState",
  "LossInputs",
  "LossTerm",
  "MetaOptimizer",
  "Metrics",
  "Natural",
  "Network",
  "NetworkPlugin",
  "NonFiniteError",
  "NotNegative",
  "Optimizer",
  "Policy",
  "Positive",
  "PyTree",
  "Range",
  "Run",
  "RunError",
  "RunInfo",
  "Scalar",
  "ScalarTuner",
  "ScoredPlugin",
  "Seed",
  "SquashedGaussian",
  "TakesEvaluations",
  "TakesHistograms",
  "TakesMedia",
  "Targets",
  "TimeStep",
  "Trajectory",
  "Tuner",
  "TunerInputs",
  "UserError",
  "Writer",
  "WriterPlugin",
  "configurable",
  "evaluate",
  "load",
  "name_of",
  "register",
  "train",
  "tunable",
  "tunables",
]

_ELSEWHERE = {  # the modules of those that are not in core.api
  "Policy": ".core.evaluation.policy",
  "Run": ".core.trained",
  "evaluate": ".core.evaluation.evaluate",
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

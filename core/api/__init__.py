"""Everything that a plugin may import from core, by one name; each module is read at first use.

So `selftune --help`, which needs the errors alone, does not wait for JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from . import jsonl, tunables
  from .contracts import (
    AgentFns,
    Corrector,
    Distribution,
    DrawablePlugin,
    DrawnEnvironment,
    Environment,
    EnvPlugin,
    FunctionalEnvironment,
    LossTerm,
    MetaOptimizer,
    Network,
    NetworkPlugin,
    Optimizer,
    RunInfo,
    ScoredPlugin,
    TakesEvaluations,
    TakesHistograms,
    TakesMedia,
    Writer,
    WriterPlugin,
  )
  from .errors import ConfigError, NonFiniteError, RunError, UserError
  from .online import (
    Dots,
    Ends,
    FusesIterations,
    Iteration,
    RunState,
    ScalarTuner,
    Tuner,
    TunerInputs,
    count,
    unless_ended,
  )
  from .papers import Cell, Cost, Figure, Paper, Result, bound, episodes, final, smooth
  from .ranges import Count, Fraction, Natural, NotNegative, Positive, Range, Seed
  from .registry import configurable, name_of, register
  from .tunables import POSITIVE, SCALE, UNIT, Components, Domain, Tunable, tunable
  from .types import (
    BINS,
    ActorParams,
    Array,
    CorrectorInputs,
    Described,
    Device,
    EnvSpec,
    Episode,
    HeadOut,
    Histogram,
    LearnerState,
    LossInputs,
    Metrics,
    PyTree,
    Scalar,
    Targets,
    TimeStep,
    Trajectory,
  )

_WHOLE = ("jsonl", "tunables")  # these modules are themselves what a plugin imports
_MODULES = (  # the light ones first
  "errors",
  "ranges",
  "registry",
  "types",
  "papers",
  "tunables",
  "contracts",
  "online",
)

__all__ = [
  "BINS",
  "POSITIVE",
  "SCALE",
  "UNIT",
  "ActorParams",
  "AgentFns",
  "Array",
  "Cell",
  "Components",
  "ConfigError",
  "Corrector",
  "CorrectorInputs",
  "Cost",
  "Count",
  "Described",
  "Device",
  "Distribution",
  "Domain",
  "Dots",
  "DrawablePlugin",
  "DrawnEnvironment",
  "Ends",
  "EnvPlugin",
  "EnvSpec",
  "Environment",
  "Episode",
  "Figure",
  "Fraction",
  "FunctionalEnvironment",
  "FusesIterations",
  "HeadOut",
  "Histogram",
  "Iteration",
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
  "Paper",
  "Positive",
  "PyTree",
  "Range",
  "Result",
  "RunError",
  "RunInfo",
  "RunState",
  "Scalar",
  "ScalarTuner",
  "ScoredPlugin",
  "Seed",
  "TakesEvaluations",
  "TakesHistograms",
  "TakesMedia",
  "Targets",
  "TimeStep",
  "Trajectory",
  "Tunable",
  "Tuner",
  "TunerInputs",
  "UserError",
  "Writer",
  "WriterPlugin",
  "bound",
  "configurable",
  "count",
  "episodes",
  "final",
  "jsonl",
  "name_of",
  "register",
  "smooth",
  "tunable",
  "tunables",
  "unless_ended",
]


def __getattr__(name: str) -> Any:
  if name in __all__ and name not in _WHOLE:
    for module in _MODULES:
      found = importlib.import_module(f".{module}", __name__)
      if name in vars(found):
        return vars(found)[name]
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Everything that a plugin may import from core, by one name; each module is read at first use.

So `selftune --help`, which needs the errors alone, does not wait for JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from . import checks, files, jsonl, native, tunables
  from .contracts import (
    AgentFns,
    ChecksComponents,
    Corrector,
    Cyclic,
    DescribesState,
    Distribution,
    DrawablePlugin,
    DrawnEnvironment,
    Environment,
    EnvPlugin,
    ForAllRuns,
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
    TunesValues,
    Writer,
    WriterPlugin,
    phases_of,
  )
  from .display import Display
  from .errors import ConfigError, NonFiniteError, RunError, UserError
  from .failures import first_failure, not_finite
  from .functional import FunctionalPool
  from .native import Advance, AdvancesNatively, HasNative, Native, Parts
  from .online import (
    Dots,
    Ends,
    FusesIterations,
    Iteration,
    RunState,
    ScalarTuner,
    SparseNetwork,
    Tuner,
    TunerInputs,
    count,
    unless_ended,
  )
  from .papers import Cell, Cost, Figure, Paper, Result, bound, episodes, final, smooth
  from .ranges import (
    LARGEST,
    Count,
    Decay,
    Fraction,
    Natural,
    NotNegative,
    Positive,
    Range,
    Seed,
    Steps,
  )
  from .registry import configurable, name_of, register
  from .resuming import resumable
  from .subprocesses import python
  from .timesteps import as_specified
  from .tunables import POSITIVE, SCALE, UNIT, Components, Domain, Tunable, tunable
  from .types import (
    BATCH_AXES,
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

# Modules that a plugin imports themselves.
_WHOLE = ("checks", "files", "jsonl", "native", "tunables")
_MODULES = (  # the light ones first
  "errors",
  "ranges",
  "registry",
  "resuming",
  "subprocesses",
  "types",
  "papers",
  "tunables",
  "contracts",
  "online",
  "native",
  "timesteps",
  "failures",
  "functional",
  "display",
)

__all__ = [
  "BATCH_AXES",
  "BINS",
  "LARGEST",
  "POSITIVE",
  "SCALE",
  "UNIT",
  "ActorParams",
  "Advance",
  "AdvancesNatively",
  "AgentFns",
  "Array",
  "Cell",
  "ChecksComponents",
  "Components",
  "ConfigError",
  "Corrector",
  "CorrectorInputs",
  "Cost",
  "Count",
  "Cyclic",
  "Decay",
  "Described",
  "DescribesState",
  "Device",
  "Display",
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
  "ForAllRuns",
  "Fraction",
  "FunctionalEnvironment",
  "FunctionalPool",
  "FusesIterations",
  "HasNative",
  "HeadOut",
  "Histogram",
  "Iteration",
  "LearnerState",
  "LossInputs",
  "LossTerm",
  "MetaOptimizer",
  "Metrics",
  "Native",
  "Natural",
  "Network",
  "NetworkPlugin",
  "NonFiniteError",
  "NotNegative",
  "Optimizer",
  "Paper",
  "Parts",
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
  "SparseNetwork",
  "Steps",
  "TakesEvaluations",
  "TakesHistograms",
  "TakesMedia",
  "Targets",
  "TimeStep",
  "Trajectory",
  "Tunable",
  "Tuner",
  "TunerInputs",
  "TunesValues",
  "UserError",
  "Writer",
  "WriterPlugin",
  "as_specified",
  "bound",
  "checks",
  "configurable",
  "count",
  "episodes",
  "files",
  "final",
  "first_failure",
  "jsonl",
  "name_of",
  "native",
  "not_finite",
  "phases_of",
  "python",
  "register",
  "resumable",
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

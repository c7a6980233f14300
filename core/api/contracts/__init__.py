"""The contracts: what a plugin author reads (`online` has those of step-size tuners).

A plugin is a frozen dataclass in a file of its own, registered with `@register(kind, name)`. Its
fields are what gin can bind; a field declared with `tunable(...)` can be self-tuned. The protocols
here say what each kind must do. Shapes use the notation of `core.api.types`.
"""

from .agents import (
  Corrector,
  Distribution,
  LossTerm,
  Network,
  NetworkPlugin,
  Optimizer,
)
from .cycles import Cycle, HasCycle, Target
from .environments import (
  DrawablePlugin,
  DrawnEnvironment,
  Environment,
  EnvPlugin,
  FunctionalEnvironment,
  ScoredPlugin,
)
from .metaoptimizers import (
  AgentFns,
  ChecksComponents,
  Cyclic,
  DescribesState,
  MetaOptimizer,
  TunesValues,
  phases_of,
)
from .populations import Exploit, Explore, ExploreInputs, Interval, Number
from .writers import (
  ForAllRuns,
  RunInfo,
  TakesEvaluations,
  TakesHistograms,
  TakesMedia,
  Writer,
  WriterPlugin,
)

__all__ = [
  "AgentFns",
  "ChecksComponents",
  "Corrector",
  "Cycle",
  "Cyclic",
  "DescribesState",
  "Distribution",
  "DrawablePlugin",
  "DrawnEnvironment",
  "EnvPlugin",
  "Environment",
  "Exploit",
  "Explore",
  "ExploreInputs",
  "ForAllRuns",
  "FunctionalEnvironment",
  "HasCycle",
  "Interval",
  "LossTerm",
  "MetaOptimizer",
  "Network",
  "NetworkPlugin",
  "Number",
  "Optimizer",
  "RunInfo",
  "ScoredPlugin",
  "TakesEvaluations",
  "TakesHistograms",
  "TakesMedia",
  "Target",
  "TunesValues",
  "Writer",
  "WriterPlugin",
  "phases_of",
]

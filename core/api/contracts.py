"""The contracts: the one file that a plugin author reads (`online` has those of step-size tuners).

A plugin is a frozen dataclass in a file of its own, registered with `@register(kind, name)`. Its
fields are what gin can bind; a field declared with `tunable(...)` can be self-tuned. The protocols
below say what each kind must do. Shapes use the notation of `core.api.types`.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from .tunables import Components
from .types import (
  Array,
  CorrectorInputs,
  Described,
  EnvSpec,
  Episode,
  HeadOut,
  Histogram,
  LearnerState,
  LossInputs,
  Metrics,
  PyTree,
  Targets,
  TimeStep,
  Trajectory,
)


class Distribution(Protocol):
  """The contract of an action distribution."""

  @property
  def size(self) -> int: ...  # A, the number of parameters

  def sample(self, key: Array, params: Array) -> Array: ...  # [..., A] -> [..., *event]
  def mode(self, params: Array) -> Array: ...
  def log_prob(self, params: Array, sample: Array) -> Array: ...  # -> [...]
  def entropy(self, params: Array) -> Array: ...  # -> [...]; UserError if it has no closed form
  def normal_kl(self, params: Array) -> Array: ...  # KL(params || N(0, 1)) -> [...]; UserError
  def kl(self, params: Array, reference: Array) -> Array: ...  # KL(params || reference) -> [...]
  def to_action(self, sample: Array) -> Array: ...  # what the environment is sent


@runtime_checkable
class Environment(Protocol):
  """A pool of `B` auto-resetting environments on the host; NumPy in, NumPy out.

  `reset` is called once, first. After that every `send(actions)` is followed by one `recv()`;
  between the two the pool steps in the background. After a step that ended an episode the next one
  ignores its action and returns the FIRST observation of a new episode, with reward 0 and discount
  1. Rewards are raw. Arrays returned are never written to again. Core takes them in the dtypes of
  `TimeStep` and of `spec`, whatever theirs are.

  `stagger` asks environments whose episodes are all of one length to start at different steps of
  their first episode, so that a batch is not forever at the same point of it; others ignore it.
  """

  spec: EnvSpec
  num_envs: int

  def reset(self, stagger: bool = False) -> TimeStep: ...
  def send(self, actions: Array) -> None: ...  # [B, ...]
  def recv(self) -> TimeStep: ...
  def close(self) -> None: ...


class EnvPlugin(Protocol):
  """Kind `env`: describes environments, and makes pools of them.

  `seeds` holds one seed an environment; pools given disjoint seeds share no randomness, and equal
  seeds and actions give equal streams.
  """

  def make(self, seeds: tuple[int, ...]) -> Environment: ...


@runtime_checkable
class DrawnEnvironment(Environment, Protocol):
  """A pool whose first environment can be drawn."""

  def draw(self) -> Array:
    """The last timestep's picture of environment 0, uint8 [height, width, 3].

    Raises:
      UserError: there is none of this task.
    """
    ...


@runtime_checkable
class DrawablePlugin(EnvPlugin, Protocol):
  """An `EnvPlugin` that can draw its environments: what videos are made of."""

  def make_drawn(self, seeds: tuple[int, ...]) -> DrawnEnvironment:
    """The pool of `make`, with pictures.

    Raises:
      UserError: this machine cannot draw.
    """
    ...


@runtime_checkable
class ScoredPlugin(EnvPlugin, Protocol):
  """An `EnvPlugin` with published scores, by which returns of different tasks compare.

  A normalised score is (return - low) / (high - low).
  """

  @property
  def reference_scores(self) -> tuple[float, float]: ...  # low, high


@runtime_checkable
class FunctionalEnvironment(Protocol):
  """One environment as pure functions, for agents that act, step and learn on the device.

  The stream of timesteps is that of `Environment`, without the batch axis: after a step that ended
  an episode, the next one ignores its action and returns the FIRST of a new one. All that is drawn
  follows from the key, so equal keys and actions give equal streams.
  """

  @property
  def spec(self) -> EnvSpec: ...

  def init(self, key: Array) -> tuple[PyTree, TimeStep]: ...  # key -> state, FIRST timestep
  def step(self, state: PyTree, action: Array) -> tuple[PyTree, TimeStep]: ...


class Network(NamedTuple):
  """The pure functions of a network.

  `unroll` evaluates the first `len(gamma)` heads; a recurrent network resets its state wherever
  `timestep.first`. `gamma` is for networks that embed it, the others ignore its values.
  """

  init: Callable[[Array], PyTree]  # key -> params, float32
  initial_state: Callable[[int], PyTree]  # batch size -> core state [B, ...]
  unroll: Callable[[PyTree, TimeStep, PyTree, Array], tuple[HeadOut, PyTree]]
  # (params, timestep [T, B, ...], core_state [B, ...], gamma [P]) -> HeadOut [P, T, B, ...], state
  active: Callable[[Array], Array] | None = None
  # observation [..., *shape] -> [..., K]: only of networks linear in F binary features, of which
  # one in each of K groups of F / K is active; params are {"value": [P, F], "policy": [P, A, F]}


class NetworkPlugin(Protocol):
  """Kind `network`."""

  def build(self, spec: EnvSpec, policy_size: int, heads: int) -> Network:
    """`policy_size` is A, the number of distribution parameters of the policy.

    Raises:
      ValueError: the network cannot take observations of this shape; the message says which it can.
    """
    ...


class Corrector(Protocol):
  """Kind `corrector`: turns one head's values and IS ratios into targets.

  Never calls stop_gradient: core has stopped the inputs, and the metagradient of every tunable
  flows through both targets. Sees any batch shape [T, ...].
  """

  @property
  def gamma(self) -> Any: ...

  def __call__(self, x: CorrectorInputs) -> tuple[Targets, Metrics]: ...  # [T, B]


class LossTerm(Protocol):
  """Kind `loss`: one term of the loss, per transition.

  Returns [T, B], unmasked and unreduced (core masks and sums), and metrics per transition, [T, B]
  too (core averages them over valid transitions). Never calls stop_gradient.
  """

  def __call__(self, x: LossInputs) -> tuple[Array, Metrics]: ...


class Optimizer(Protocol):
  """Kind `optimizer`: one differentiable step on the agent's parameters.

  The derivative of the new parameters with respect to gradients and tunables must be finite
  everywhere, at zero gradient too. `progress` runs from 0 to 1 over training.
  """

  def init(self, params: PyTree) -> PyTree: ...
  def update(
    self, grads: PyTree, opt_state: PyTree, params: PyTree, progress: Array
  ) -> tuple[PyTree, PyTree]: ...  # new params, new opt_state


class AgentFns(Protocol):
  """What a meta-optimiser is given: the agent as pure functions.

  `values` are tuned values by name, [P] (optimiser tunables: [1]); what is absent keeps its
  configured value. A behaviour that needs heads beyond the P tuned ones has E extra heads.
  """

  network: Network
  distribution: Distribution
  components: Components  # corrector, loss terms and optimiser, by registered name

  @property
  def tunable_shapes(self) -> Mapping[str, tuple[int, ...]]:
    """By tunable name: (P,), or (1,) of the optimiser's."""
    ...

  def gamma(self, values: Mapping[str, Array]) -> Array:
    """Each head's discount, [P + E]."""
    ...

  def inner_loss(
    self, params: PyTree, values: Mapping[str, Array], trajectory: Trajectory
  ) -> tuple[Array, tuple[Metrics, Array]]:
    """Loss []; metrics by name, [P], and the policies of the outer loss, [Po, T, B, A]."""
    ...

  def outer_loss(
    self,
    params: PyTree,
    gamma: Array,
    extra_terms: Mapping[str, LossTerm],
    reference: Array,
    trajectory: Trajectory,
  ) -> tuple[Array, Metrics]:
    """Loss [] and metrics [] at the configured values, with further terms; gamma is [P + E]."""
    ...

  def optimizer_step(
    self,
    params: PyTree,
    grads: PyTree,
    opt_state: PyTree,
    step: Array,
    values: Mapping[str, Array],
  ) -> tuple[PyTree, PyTree]:
    """New parameters and optimiser state; `step` [] is of the learner state."""
    ...

  @property
  def accumulate(self) -> Callable[..., tuple[PyTree, PyTree, PyTree]]:
    """`accumulate(f, batch, *stacked)` runs over the K micro-batches of every learner device.

    It splits the Trajectory `batch` and maps `f(micro_batch, *slices) -> (sums, means, stacked)`
    over the parts; it returns the sums added, the means averaged over micro-batches and devices
    (of one whose name ends in `/max`, the greatest), and `stacked` as it came from each
    micro-batch, [K, ...]: what a later call may take as its `*stacked`, with the same batch. A part
    of a batch, of fewer trajectories, is split likewise, into as few as it needs.
    """
    ...


class MetaOptimizer(Protocol):
  """Kind `metaopt`: owns the whole update of an agent.

  All that it needs is here; what it may offer besides are `ChecksComponents`, `TunesValues` and
  `DescribesState`.
  """

  def init(self, fns: AgentFns, state: LearnerState, batch: Trajectory) -> PyTree:
    """The meta state, given the first state without it and the shapes of a batch.

    A Trajectory in the meta state is split over devices like a batch; all else is replicated.

    Raises:
      ValueError: it does not take such batches.
    """
    ...

  def step(
    self, fns: AgentFns, state: LearnerState, batch: Trajectory
  ) -> tuple[LearnerState, Metrics]:
    """One update: the new state, and metrics [].

    Where several are not finite, the first cause is told by how names begin: `loss/`, `grad_norm`,
    `outer_loss/`, `metagrad` (of what is tuned), and then all others. `selftune plot` draws a line
    for each `tuned/<number>/<head>`, and a panel for each metric whose name has no `/`.
    """
    ...


@runtime_checkable
class ChecksComponents(Protocol):
  """What a meta-optimiser offers that cannot tune just any agent."""

  def check(self, components: Components) -> None:
    """Called when an agent is configured, with its plugins by name.

    Raises:
      ValueError: it cannot tune them; a pattern of `tune` matches nothing.
    """
    ...


@runtime_checkable
class TunesValues(Protocol):
  """What a meta-optimiser offers that tunes numbers of the agent's plugins."""

  def values(self, fns: AgentFns, meta_state: PyTree) -> dict[str, Array]:
    """The tuned values by name as plugins see them, [P] or [1]."""
    ...


@runtime_checkable
class DescribesState(Protocol):
  """What a meta-optimiser offers that has more to log than the metrics of its steps."""

  def describe(self, state: LearnerState) -> Described:
    """Scalars and histograms of a state, worth their cost only where a row is logged."""
    ...


@runtime_checkable
class Writer(Protocol):
  """Kind `writer`: an open log. Called from one thread only, rows in order of `env_steps`.

  Every row holds `env_steps` and `wall_time`. May block: it delays neither training nor the other
  writers. Rows are shared, so they must not be changed.
  """

  def write(self, row: Mapping[str, float]) -> None: ...
  def write_episodes(self, episodes: Sequence[Episode]) -> None: ...
  def close(self) -> None: ...


@runtime_checkable
class TakesMedia(Protocol):
  """What a writer offers that also takes pictures (PNG) and videos (MP4)."""

  def write_media(self, name: str, path: Path) -> None: ...


@runtime_checkable
class TakesEvaluations(Protocol):
  """What a writer offers that also takes the scores of evaluations beside training.

  `env_steps` of such a row is that of the parameters scored: older than the last row written.
  """

  def write_evaluation(self, row: Mapping[str, float]) -> None: ...


@runtime_checkable
class TakesHistograms(Protocol):
  """What a writer offers that also takes histograms; `row` is what was written just before."""

  def write_histograms(
    self, histograms: Mapping[str, Histogram], row: Mapping[str, float]
  ) -> None: ...


class WriterPlugin(Protocol):
  """Kind `writer`, as configured: opens the log of one run.

  `required`: whether an exception of this writer ends the run. If not, the user is warned once, and
  `open` is called from the writer's thread: it may take its time, too.
  """

  @property
  def required(self) -> bool: ...

  def open(self, run: "RunInfo") -> Writer: ...


class RunInfo(NamedTuple):
  """What a writer may want to know of the run it logs."""

  workdir: str
  config: Mapping[str, Any]  # operative bindings, flat: 'entropy.cost' -> 0.01
  total_env_steps: int
  resumed_at: int  # env steps at which this process started; 0 if fresh
  ids: dict[str, str]  # writer's name -> its own id of the run; kept in checkpoints, writers add

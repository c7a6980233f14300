"""Checks of a whole agent: its update, and the metagradient of everything that it tunes."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..agent.functions import Functions
from ..api import tunables
from ..api.contracts import Cycle, HasCycle, phases_of
from ..api.errors import UserError, plugin_mistakes
from ..api.types import EnvSpec, LearnerState, Metrics, Trajectory
from ..engine.learner import Learner
from ..experiment import Agent
from . import cycle, inputs, numbers
from .rows import Check, Failed, Found, NotChecked

TOLERANCE = 1e-3  # relative, of a metagradient that is right
CYCLES = 3  # of updates: the first compiles, the others must not
MOST = 64  # trajectories, at most, that a meta-optimiser is offered


class Subject(NamedTuple):
  """An agent that is to be checked, and the data that it is checked with."""

  agent: Agent
  spec: EnvSpec
  t: int  # transitions of a trajectory
  b: int  # trajectories
  most: int  # trajectories that it is configured for
  total_updates: int


def update(part: str, subject: Any, needs: tuple[str, ...]) -> Iterator[Check]:
  """Checks of the update that a run makes, in float32, on made-up batches.

  Args:
    part: names it.
    subject: a function that gives the `Subject`, or raises why there is none.
    needs: parts without which it says nothing.
  """

  @functools.cache
  def ready() -> tuple[Learner, Functions, int]:
    it: Subject = subject()
    fns = Functions(it.agent, it.spec, it.total_updates)
    b = _enough(it, fns)
    return Learner(fns, jax.local_devices()[:1], b, it.t), fns, b

  def batch(n: int) -> Trajectory:
    learner, fns, b = ready()
    it: Subject = subject()
    return learner.put(inputs.trajectory(fns, it.spec, it.t, b, n))

  def first() -> LearnerState:
    learner, it = ready()[0], subject()
    rng = np.random.default_rng(0)
    return learner.init(jax.random.key(0), inputs.timesteps(it.spec.observation, (1,), rng))

  def shapes() -> Found:
    learner, _, b = ready()
    # Tracing asks everything that a plugin gives for its shape and dtype; nothing is computed.
    learner.trace(first())
    phases = f", {learner.phases} phases" if learner.phases > 1 else ""
    return Found(note=f"[T, B] = [{subject().t}, {b}]{phases}")

  @functools.cache
  def played() -> tuple[Metrics, list[int]]:
    """Makes some updates; the metrics [] of the last, and how much each cycle of them traced."""
    learner, state = ready()[0], first()
    metrics, counts = {}, []
    for n in range(CYCLES):
      # Before the count begins: to draw a batch traces functions, too.
      batches = [batch(n * learner.phases + phase) for phase in range(learner.phases)]
      with numbers.traces() as count:
        for phase, data in enumerate(batches):
          state, metrics = learner.update(state, data, phase)
      counts.append(count())
    return metrics, counts

  def finite() -> Found:
    learner = ready()[0]
    learner.check(played()[0])
    return Found(note=f"{CYCLES * learner.phases} updates")

  def once() -> Found:
    return numbers.traced_once(played()[1], part)

  yield Check(part, "shapes", shapes, needs)
  yield Check(part, "finite numbers", finite, needs)
  yield Check(part, "one compilation", once, needs)


class Compared(NamedTuple):
  """The metagradient as it is logged, and by differences."""

  logged: Mapping[str, float]
  by_eta: Mapping[str, np.ndarray]  # [P] or [1]
  norm: float  # by all etas, and by weights that they follow from where there are any
  least: float  # below which differences are rounding alone


def metagradient(agent: Agent, subject: Any, needs: tuple[str, ...]) -> Iterator[Check]:
  """Checks of the metagradient, in float64: one for each number that is tuned.

  Args:
    agent: as configured.
    subject: a function that gives the `Subject`, or raises why there is none.
    needs: parts without which it says nothing.
  """
  if not isinstance(agent.metaopt, HasCycle):
    return

  # Once for all rows: each of them reads its number from the same two cycles.
  @functools.cache
  def compared() -> Compared:
    with jax.enable_x64(True), numbers.in_float64("the agent"):
      return compare(subject())

  def one(name: str) -> Found:
    it = compared()
    pairs = [(it.logged[f"metagrad/{name}/{p}"], x) for p, x in enumerate(it.by_eta[name])]
    return _agree(pairs, it.least)

  def all_together() -> Found:
    it = compared()
    return _agree([(it.logged["metagrad_norm"], it.norm)], it.least)

  tuned = agent.metaopt.tuned(agent.components)
  for name in tuned:
    yield Check(f"metagradient of {name}", "derivative", functools.partial(one, name), needs)
  if tuned:
    yield Check("metagradient", "norm by all", all_together, needs)


def compare(it: Subject, seed: int = 0) -> Compared:
  """Runs a meta-optimiser through two cycles, and compares the second with differences.

  JAX is to be set to 64 bits.

  Args:
    it: the agent, and sizes.
    seed: of all that is drawn.

  Raises:
    NotChecked: the agent computes in fewer bits.
  """
  fns, metaopt = Functions(it.agent, it.spec, it.total_updates), it.agent.metaopt
  assert isinstance(metaopt, HasCycle)
  b, phases = _enough(it, fns), phases_of(metaopt)
  # Two cycles, and one batch more, which may be what judges the second. The first cycle fills what
  # the meta-optimiser remembers; the second is the one compared.
  drawn = lambda n: inputs.trajectory(fns, it.spec, it.t, b, seed + n, np.float64)
  batches = [drawn(n) for n in range(2 * phases + 1)]
  state = first_state(fns, batches[0], seed)
  loss = lambda params: fns.inner_loss(params, {}, batches[0])[0]
  # Fewer bits round by more than the differences that are to be seen.
  if narrow := numbers.narrows(loss, state.params):
    raise NotChecked(f"the agent computes in {narrow}, where differences say nothing")
  states, rows = run(fns, state, batches)
  found: Cycle | None = metaopt.cycle(fns, states[phases:], batches[phases:])
  if found is None:
    raise NotChecked("nothing is tuned")
  tuned = tunables.select(tunables.collect(fns.components), tuple(found.etas))
  expected = cycle.gradient(fns, tuned, states[phases], found)
  logged = {name: float(x) for name, x in rows[phases + found.judged].items()}
  # Errors are relative to this at least: so noise of differences is at most a tenth of TOLERANCE.
  least = max(10 * expected.noise / TOLERANCE, 1e-30)
  return Compared(logged, expected.by_eta, expected.norm, least)


def first_state(fns: Functions, batch: Trajectory, seed: int = 0) -> LearnerState:
  """Returns the state before the first update in float64, given a batch [T+1, B]."""
  params = inputs.doubled(jax.jit(fns.network.init)(jax.random.key(seed)))
  zero, key = jnp.zeros((), jnp.int32), jax.random.key(seed + 1)
  state = LearnerState(params, fns.init_optimizer(params), (), zero, key, zero - 1)
  with plugin_mistakes():
    return state._replace(meta_state=fns.metaopt.init(fns, state, batch))


def run(
  fns: Functions, state: LearnerState, batches: Sequence[Trajectory]
) -> tuple[list[LearnerState], list[Mapping[str, Any]]]:
  """Makes a step of the meta-optimiser on each batch [T+1, B].

  Returns:
    The states before each, and after the last; and the metrics of each.
  """
  phases, metaopt = phases_of(fns.metaopt), fns.metaopt
  # A phase is a number of Python's, by which each is a function to compile; others take none.
  extra = lambda phase: {"phase": phase} if phases > 1 else {}
  steps = [jax.jit(functools.partial(metaopt.step, fns, **extra(p))) for p in range(phases)]
  states, rows = [state], []
  for n, batch in enumerate(batches):
    state, metrics = steps[n % phases](state, batch)
    # Core counts updates, not the meta-optimiser: in a run `guarded_step` does.
    state = state._replace(step=state.step + 1)
    states.append(state)
    rows.append(metrics)
  return states, rows


def _enough(it: Subject, fns: Functions) -> int:
  """Returns as few trajectories as the meta-optimiser takes: it may hold some out."""
  b = it.b
  while True:
    batch = inputs.trajectory(fns, it.spec, it.t, b, 0)
    try:
      jax.eval_shape(lambda batch=batch: first_state(fns, batch).meta_state)
      return b
    except UserError:
      # A run has no more than `most` either: what is refused then is refused there, too.
      if 2 * b > min(it.most, MOST):
        raise
      b *= 2


def _agree(pairs: Sequence[tuple[float, float]], least: float) -> Found:
  """Checks that derivatives, as logged and by differences, agree.

  Raises:
    Failed: they do not.
  """
  errors = np.array([abs(a - x) / max(abs(x), least) for a, x in pairs])
  worst = int(np.argmax(errors))  # of NumPy's, which counts NaN as the greatest
  error = float(errors[worst])
  if not error <= TOLERANCE:
    a, x = pairs[worst]
    raise Failed(f"it is logged as {a:.4g}, and by central differences {x:.4g}", error)
  moves = max(abs(x) for _, x in pairs) > least
  return Found(error, "relative error" if moves else "it moves nothing that the outer loss sees")

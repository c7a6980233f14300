"""AC(lambda) as machine code: which agents have it, and all runs through it, in threads."""

import ctypes
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs

from ...core.api import (
  Advance,
  AgentFns,
  Ends,
  HasNative,
  LearnerState,
  Native,
  Parts,
  RunState,
  checks,
  cores,
  first_failure,
  native,
)

ENDLESS = 2**31 - 1  # episodes and steps of a run that nothing limits
HERE = Path(__file__).parent
HEADERS = (
  *(HERE / name for name in ("_run.h", "_one.h", "_each.h", "_advance.h")),
  HERE.parent / "_threefry.h",
  HERE.parent / "networks" / "_features.h",
  *(HERE.parent / "tuners" / name for name in ("_rules.h", "_rules_each.h")),
  Path(native.__file__).parent / "native.h",
)
# Plugins are template arguments, so that the compiler inlines them; what runs differ in, their
# settings, comes in tables.
SOURCE = """
#include "{here}/_advance.h"
#include "{env.header}"
#include "{network.header}"
#include "{tuner.header}"
extern "C" void advance(
    const Runs& runs, void* const* leaves, float* const* arrays, const Sizes& sizes) {{
  advance_all<{env.type}, {network.type}, {tuner.type}, {actions}>(runs, leaves, arrays, sizes);
}}
"""


def natively(fns: AgentFns, runs: Sequence[Parts]) -> Advance | str:
  """Returns what advances runs of AC(lambda), or why there is no machine code for them."""
  ac, network, env = runs[0]
  forms = []
  for plugin in (env, network, ac.tuner):
    form = plugin.native() if isinstance(plugin, HasNative) else None
    if form is None:
      return f"{checks.who(plugin)} has no form in C++."
    forms.append(form)
  if not isinstance(env.spec.action, specs.DiscreteArray):
    return "Actions are not discrete."
  # The C++ has one generator, and draws what JAX draws to the bit.
  config: Any = jax.config
  threefry = config.jax_default_prng_impl == "threefry2x32"
  if not (threefry and config.jax_threefry_partitionable):
    return "Random numbers are not those of threefry2x32."
  # A rule that wants the last trace undecayed divides by gamma lambda (AutoTIDBD).
  if any(x.metaopt.gamma * x.metaopt.lambda_ == 0 for x in runs):
    return "Traces end at once (gamma lambda = 0)."
  return _advance(fns, runs, *forms)


def _advance(
  fns: AgentFns, runs: Sequence[Parts], env: Native, network: Native, tuner: Native
) -> Advance | str:
  actions = fns.distribution.size
  source = SOURCE.format(here=HERE, env=env, network=network, tuner=tuner, actions=actions)
  library = native.library(source, (*HEADERS, env.header, network.header, tuner.header))
  if isinstance(library, str):
    return library
  # In the order that `Runs` of _run.h ends with: AC(lambda), network, environment, tuner.
  settings = [
    _table((x.metaopt.gamma, x.metaopt.lambda_, x.metaopt.entropy, _most(x)) for x in runs),
    *(_table(_settings(getattr(x, part)) for x in runs) for part in ("network", "env")),
    _table(_settings(x.metaopt.tuner) for x in runs),
  ]
  # The numbers of failures are those that the JAX form gives where one of these metrics is NaN.
  fine: dict[str, Any] = dict.fromkeys(("delta", "param_norm"), jnp.zeros(()))
  failures = [int(first_failure(fine | {n: fine[n] / 0}, jnp.zeros(3, bool))) for n in fine]
  threads = cores()

  def advance(
    states: RunState, steps: int, episodes: int | None, env_steps: int | None
  ) -> tuple[RunState, Ends]:
    count = states.finished.shape[0]
    env_leaves, env_structure = jax.tree.flatten(states.env)
    # Copies, in which C++ writes: the states that are given stay as they are.
    leaves = [_own(x) for x in env_leaves]
    learner, timestep = states.learner, states.timestep
    run = [
      *map(_own, (states.key, learner.step, learner.failure, states.finished, states.env_steps)),
      *map(_own, (states.returns, states.lengths, *timestep)),
    ]
    # [R, steps, 1]: a run has one environment.
    ends = Ends(*(np.zeros((count, steps, 1), t) for t in (np.bool_, np.float32, np.int32)))
    arrays, rule, finish = _learner(learner)
    # In the order of `Sizes` of _run.h, where the environment's settings come before the network's.
    sizes = np.array(
      [
        *(
          count,
          steps,
          learner.params["value"].shape[-1],
          math.prod(timestep.observation.shape[1:]),
        ),
        *(settings[i].shape[1] for i in (2, 1, 3)),
        *(episodes or ENDLESS, env_steps or ENDLESS, *failures, rule, threads),
      ],
      np.int64,
    )
    # One table of pointers for each parameter of `advance`: the runs, their environments, learners.
    library.advance(
      *(_pointers(x) for x in ((*run, *ends, *settings), leaves, arrays)),
      sizes.ctypes.data_as(ctypes.c_void_p),
    )
    # Keys are only read: what is drawn at a step is hashed of key and step.
    _, step, failure, finished, made, returns, lengths, *seen = run
    states = states._replace(
      learner=finish(learner)._replace(step=step, failure=failure),
      env=jax.tree.unflatten(env_structure, map(_like, env_leaves, leaves)),
      timestep=type(timestep)(*seen),
      returns=returns,
      lengths=lengths,
      finished=finished,
      env_steps=made,
    )
    return states, ends

  return advance


def _learner(
  learner: LearnerState,
) -> tuple[list[np.ndarray], int, Callable[[LearnerState], LearnerState]]:
  """Lays out what an update changes as `One::Arrays` has it, arrays [R, ...]; and back.

  Returns:
    The arrays, how many scalars a tuner has, and what puts them in the state of the learner.
  """
  online = learner.meta_state
  leaves, structure = jax.tree.flatten(online.tuner)
  # Of a tuner's state, what is of each parameter is [R, N], and all else are scalars, [R].
  scalars = [i for i, x in enumerate(leaves) if x.ndim == 1]
  vectors = [i for i, x in enumerate(leaves) if x.ndim == 2]
  rule = np.zeros((online.trace.shape[0], len(scalars)), np.float32)
  for column, i in enumerate(scalars):
    rule[:, column] = leaves[i]
  old = [
    *(np.asarray(learner.params[name]) for name in ("value", "policy")),
    np.asarray(online.trace),
    *(np.asarray(leaves[i]) for i in vectors),
  ]
  new = [np.empty_like(x) for x in old]

  def finish(learner: LearnerState) -> LearnerState:
    value, policy, trace, *tuned = new
    for i, x in (*zip(scalars, rule.T.copy(), strict=True), *zip(vectors, tuned, strict=True)):
      leaves[i] = x
    meta = online._replace(trace=trace, tuner=jax.tree.unflatten(structure, leaves))
    return learner._replace(params={"value": value, "policy": policy}, meta_state=meta)

  # The scalars are changed in place; the rest is read from `old` and written to `new`.
  return [rule, *old, *new], len(scalars), finish


def _settings(plugin: HasNative) -> tuple[float, ...]:
  form = plugin.native()
  assert form is not None  # as of the first run
  return form.settings


def _most(x: Parts) -> float:
  return math.inf if x.metaopt.max_abs_reward is None else x.metaopt.max_abs_reward


def _table(rows: Iterable[Iterable[float]]) -> np.ndarray:
  """Makes a table of the settings of all runs, float32 [R, number of settings]."""
  table = [tuple(row) for row in rows]
  return np.array(table, np.float32).reshape(len(table), -1)


def _own(x: Any) -> np.ndarray:
  """Returns a copy of an array [...], on the host; of keys, that of their words."""
  key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
  return np.array(jax.random.key_data(x) if key else x)


def _like(old: Any, new: Any) -> Any:
  """Makes words [..., 2] keys again where there were keys before; returns all else as it is."""
  if jnp.issubdtype(old.dtype, jax.dtypes.prng_key):
    return jax.random.wrap_key_data(new, impl=jax.random.key_impl(old))
  return new


def _pointers(arrays: Iterable[Any]) -> Any:
  """Returns the addresses of arrays [...], as C's void**."""
  found = [x.ctypes.data for x in arrays]
  return (ctypes.c_void_p * len(found))(*found)

"""How runs lie on devices: which part of them, and of the batch of each, every device has."""

from typing import Any

import jax
from jax.sharding import PartitionSpec as P

from ..api.online import RunState
from ..api.types import PyTree
from ..engine.batches import micro_batches_of, state_specs
from .share import BATCH, Share

AXIS = "runs"
CPU_CHUNK = 32  # runs whose traces stay in a CPU's cache


def layout(devices: int, runs: int, num_envs: int, micro_batch: int | None) -> tuple[int, Share]:
  """Lays runs out over devices: runs first, and what devices are left share the batch of each.

  Returns:
    How many parts the runs are split into, and how the batch of each is split.

  Raises:
    UserError: the share of a device is no multiple of `micro_batch`.
  """
  groups = min(devices, runs)
  # The batch splits evenly or not at all: devices beyond that stay idle.
  sharing = max(n for n in range(1, devices // groups + 1) if num_envs % n == 0)
  # Called only for what it refuses.
  micro_batches_of(num_envs, sharing, micro_batch)
  return groups, Share(sharing, micro_batch)


def specs(states: RunState) -> RunState:
  """Returns PartitionSpecs of states [R', ...]: environments, [R', B, ...], are split by B, too."""
  of_run: Any = P(AXIS)
  of_env: Any = P(AXIS, BATCH)
  # Counters and keys are whole on each device of BATCH: `Share.counted` makes the counts equal, and
  # `own_rows` draws with the same key everywhere.
  return RunState(
    learner=state_specs(states.learner, BATCH, (AXIS,)),
    env=jax.tree.map(lambda _: of_env, states.env),
    timestep=jax.tree.map(lambda _: of_env, states.timestep),
    core_state=jax.tree.map(lambda _: of_env, states.core_state),
    returns=of_env,
    lengths=of_env,
    finished=of_run,
    env_steps=of_run,
    key=of_run,
    acting=jax.tree.map(lambda _: of_run, states.acting),
  )


def chunked(rows: PyTree, size: int) -> PyTree:
  """Puts rows of runs, [N, ...], into chunks, [N / size, size, ...]."""
  # No axis is left to be found out: an environment's state may hold arrays without an element.
  return jax.tree.map(lambda x: x.reshape(len(x) // size, size, *x.shape[1:]), rows)


def merged(chunks: PyTree) -> PyTree:
  """Puts chunks of runs, [N / size, size, ...], into rows, [N, ...]."""
  return jax.tree.map(lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]), chunks)

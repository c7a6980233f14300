"""Cost of an update: STAC and STACX beside IMPALA, on the Atari network.

  python benchmarks/learner.py [--variants] [--bind 'train.micro_batch = 4'] [--turns 5]

The agents take turns, so that what else the machine does falls on all of them; reported are
medians, and medians of each turn's ratios. Temporary memory is XLA's own count, for one learner
device. Where an update has phases, time is that of a cycle by their number, memory the greatest.
`--variants` measures STAC and the family of metagradients in place of the three.
"""

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from dm_env import specs

from selftune.core import config
from selftune.core.agent.functions import Functions
from selftune.core.api.types import EnvSpec, TimeStep, Trajectory
from selftune.core.engine import single
from selftune.core.machine import platform

AGENTS = {name: (name, ()) for name in ("atari_impala", "atari_stac", "atari_stacx")}
VARIANTS = {  # of STAC: name -> experiment, what is bound
  "atari_stac": ("atari_stac", ()),
  "next batch": ("atari_stac", ("metagradient.outer_batch = 'next'",)),
  "held out": ("atari_stac", ("metagradient.outer_batch = 'held_out'",)),
  "K = 2": ("atari_stac", ("metagradient.inner_updates = 2",)),
  "K = 4": ("atari_stac", ("metagradient.inner_updates = 4",)),
  "critic, shared": ("atari_stac", ("outer.critic = 'shared'",)),
  "critic, own": ("atari_stac", ("outer.critic = 'own'",)),
  "BMG": ("atari_stac", ("metagradient.bootstrap = @bootstrap()",)),
  "context": ("atari_stac", ("metagradient.context = @context()",)),
}
ACTIONS = 4  # of Breakout
BOUNDS = {("atari_stac", "atari_impala"): 2.8, ("atari_stacx", "atari_stac"): 1.15}


class Update(NamedTuple):
  """A compiled update with its state and batch."""

  phases: list[Any]  # (state, batch) -> state, metrics
  state: Any
  batch: Trajectory
  frames: int  # of an update, action repeats counted
  devices: int
  temporary: int  # bytes


def prepare(name: str, bindings: Sequence[str]) -> Update:
  """Compiles the update of a packaged experiment and runs a cycle of it."""
  loaded = config.load(f"experiments/{name}", bindings).root
  platform.prepare(loaded.learner_devices, loaded.runtime.actor_devices)
  spec = EnvSpec(specs.Array((84, 84, 4), np.uint8), specs.DiscreteArray(ACTIONS))
  learner = single.make_learner(loaded, Functions(loaded.agent, spec, loaded.total_updates))
  batch = random_batch(loaded.unroll_length, loaded.num_envs)
  state = learner.init(jax.random.key(0), jax.tree.map(lambda x: x[0], batch.timestep))
  device_batch = learner.put(batch)
  phases = [learner.compile(state, device_batch, n) for n in range(learner.phases)]
  temporary = max(phase.memory_analysis().temp_size_in_bytes for phase in phases)
  frames, devices = 4 * loaded.steps_per_update, learner.mesh.devices.size
  return cycle(Update(phases, state, device_batch, frames, devices, temporary))


def cycle(update: Update) -> Update:
  """Runs every phase once."""
  state = update.state
  for phase in update.phases:
    state, _ = phase(state, update.batch)
  return update._replace(state=jax.block_until_ready(state))


def random_batch(t: int, b: int) -> Trajectory:
  """Random pictures, rewards and actions of a random policy."""
  rng = np.random.default_rng(0)
  step = TimeStep(
    rng.integers(0, 256, (t + 1, b, 84, 84, 4), np.uint8),
    rng.normal(size=(t + 1, b)).astype(np.float32),
    np.ones((t + 1, b), np.float32),
    np.zeros((t + 1, b), bool),
  )
  mu = rng.normal(size=(t, b, ACTIONS)).astype(np.float32)
  action = rng.integers(0, ACTIONS, (t, b)).astype(np.int32)
  return Trajectory(step, action, mu, (), np.zeros((t, b), np.int32))


def measure(
  agents: Mapping[str, tuple[str, tuple[str, ...]]], bindings: list[str], turns: int
) -> tuple[dict[str, Update], dict[str, list[float]]]:
  """Seconds of every agent's update, turn by turn."""
  updates = {name: prepare(of, (*own, *bindings)) for name, (of, own) in agents.items()}
  seconds: dict[str, list[float]] = {name: [] for name in agents}
  for _ in range(turns):
    for name, update in updates.items():
      start = time.perf_counter()
      updates[name] = cycle(update)
      seconds[name].append((time.perf_counter() - start) / len(update.phases))
  return updates, seconds


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--bind", action="append", default=[], help="a gin binding for all agents")
  parser.add_argument("--turns", type=int, default=5)
  parser.add_argument("--variants", action="store_true", help="STAC and the family, see above")
  args = parser.parse_args()
  agents = VARIANTS if args.variants else AGENTS
  updates, seconds = measure(agents, args.bind, args.turns)
  print(f"{next(iter(updates.values())).devices} x {jax.devices()[0].device_kind}")
  print(f"{'agent':<18}{'seconds/update':>15}{'frames/s':>12}{'temporary MiB':>15}")
  for name, update in updates.items():
    median = statistics.median(seconds[name])
    frames, mebibytes = update.frames / median, update.temporary / 2**20
    print(f"{name:<18}{median:>15.3f}{frames:>12,.0f}{mebibytes:>15.0f}")
  for (a, b), bound in () if args.variants else BOUNDS.items():
    ratio = statistics.median(x / y for x, y in zip(seconds[a], seconds[b], strict=True))
    print(f"{a} / {b}: {ratio:.2f} (at most {bound} wanted)")


if __name__ == "__main__":
  main()

"""Cost of an update: STAC and STACX beside IMPALA, on the Atari network.

  python benchmarks/learner.py [--bind 'train.micro_batch = 4'] [--turns 5]

The agents take turns, so that what else the machine does falls on all of them; reported are
medians, and medians of each turn's ratios. Temporary memory is XLA's own count, for one learner
device.
"""

import argparse
import statistics
import time
from typing import Any, NamedTuple

import jax
import numpy as np
from dm_env import specs

from selftune.core import config
from selftune.core.agent.functions import Functions
from selftune.core.api.types import EnvSpec, TimeStep, Trajectory
from selftune.core.engine import single
from selftune.core.machine import platform

AGENTS = ("atari_impala", "atari_stac", "atari_stacx")
ACTIONS = 4  # of Breakout
BOUNDS = {("atari_stac", "atari_impala"): 2.8, ("atari_stacx", "atari_stac"): 1.15}


class Update(NamedTuple):
  """A compiled update with its state and batch."""

  run: Any  # (state, batch) -> state, metrics
  state: Any
  batch: Trajectory
  frames: int  # of an update, action repeats counted
  devices: int
  temporary: int  # bytes


def prepare(name: str, bindings: list[str]) -> Update:
  """Compiles the update of a packaged experiment and runs it once."""
  loaded = config.load(f"experiments/{name}", bindings).root
  platform.prepare(loaded.learner_devices, loaded.runtime.actor_devices)
  spec = EnvSpec(specs.Array((84, 84, 4), np.uint8), specs.DiscreteArray(ACTIONS))
  learner = single.make_learner(loaded, Functions(loaded.agent, spec, loaded.total_updates))
  batch = random_batch(loaded.unroll_length, loaded.num_envs)
  state = learner.init(jax.random.key(0), jax.tree.map(lambda x: x[0], batch.timestep))
  device_batch = learner.put(batch)
  compiled = learner.compile(state, device_batch)
  temporary = compiled.memory_analysis().temp_size_in_bytes
  state, _ = jax.block_until_ready(compiled(state, device_batch))
  frames, devices = 4 * loaded.steps_per_update, learner.mesh.devices.size
  return Update(compiled, state, device_batch, frames, devices, temporary)


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


def measure(bindings: list[str], turns: int) -> tuple[dict[str, Update], dict[str, list[float]]]:
  """Seconds of every agent's update, turn by turn."""
  updates = {name: prepare(name, bindings) for name in AGENTS}
  seconds: dict[str, list[float]] = {name: [] for name in AGENTS}
  for _ in range(turns):
    for name, update in updates.items():
      start = time.perf_counter()
      state, _ = jax.block_until_ready(update.run(update.state, update.batch))
      seconds[name].append(time.perf_counter() - start)
      updates[name] = update._replace(state=state)
  return updates, seconds


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--bind", action="append", default=[], help="a gin binding for all agents")
  parser.add_argument("--turns", type=int, default=5)
  args = parser.parse_args()
  updates, seconds = measure(args.bind, args.turns)
  print(f"{next(iter(updates.values())).devices} x {jax.devices()[0].device_kind}")
  print(f"{'agent':<18}{'seconds/update':>15}{'frames/s':>12}{'temporary MiB':>15}")
  for name, update in updates.items():
    median = statistics.median(seconds[name])
    frames, mebibytes = update.frames / median, update.temporary / 2**20
    print(f"{name:<18}{median:>15.3f}{frames:>12,.0f}{mebibytes:>15.0f}")
  for (a, b), bound in BOUNDS.items():
    ratio = statistics.median(x / y for x, y in zip(seconds[a], seconds[b], strict=True))
    print(f"{a} / {b}: {ratio:.2f} (at most {bound} wanted)")


if __name__ == "__main__":
  main()

"""Cost of an update: STAC and STACX beside IMPALA, on the Atari network.

  python benchmarks/learner.py [--variants] [--bind 'train.micro_batch = 4'] [--turns 5]
  python benchmarks/learner.py --envs 32 128 512 --agents atari_impala atari_stac

The agents take turns, so that what else the machine does falls on all of them; reported are
medians, and medians of each turn's ratios. Temporary memory is XLA's own count, for one learner
device. Where an update has phases, time is that of a cycle by their number, memory the greatest.
`put` is moving a batch from the host to the learners. `--envs` are batches, measured one after the
other; an agent that there is too little memory for is named, and the others follow.
`--variants` measures STAC and the family of metagradients in place of the three.
"""

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cells
import jax
import numpy as np
from cells import Cell
from dm_env import specs

from selftune.core import config
from selftune.core.agent.functions import Functions
from selftune.core.api.types import EnvSpec, TimeStep, Trajectory
from selftune.core.engine import single
from selftune.core.machine import platform

Agents = Mapping[str, tuple[str, tuple[str, ...]]]  # name -> experiment, what is bound
FRAMES = 4  # of an env step
AGENTS: Agents = {name: (name, ()) for name in ("atari_impala", "atari_stac", "atari_stacx")}
VARIANTS: Agents = {  # of STAC
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
  env_steps: int  # of an update
  temporary: int  # bytes
  put: float  # seconds


def prepare(name: str, bindings: Sequence[str]) -> Update:
  """Compiles the update of a packaged experiment and runs a cycle of it."""
  loaded = config.load(f"experiments/{name}", bindings).root
  platform.prepare(loaded.learner_devices, loaded.runtime.actor_devices)
  spec = EnvSpec(specs.Array((84, 84, 4), np.uint8), specs.DiscreteArray(ACTIONS))
  fns = Functions(loaded.agent, spec, loaded.total_updates)
  learner = single.make_learner(loaded, fns)
  batch = random_batch(fns, loaded.unroll_length, loaded.num_envs)
  state = learner.init(jax.random.key(0), jax.tree.map(lambda x: x[0], batch.timestep))
  jax.block_until_ready(learner.put(batch))  # the first makes room for it
  start = time.perf_counter()
  device_batch = jax.block_until_ready(learner.put(batch))
  put = time.perf_counter() - start
  phases = [learner.compile(state, device_batch, n) for n in range(learner.phases)]
  temporary = max(phase.memory_analysis().temp_size_in_bytes for phase in phases)
  return cycle(Update(phases, state, device_batch, loaded.steps_per_update, temporary, put))


def cycle(update: Update) -> Update:
  """Runs every phase once."""
  state = update.state
  for phase in update.phases:
    state, _ = phase(state, update.batch)
  return update._replace(state=jax.block_until_ready(state))


def random_batch(fns: Functions, t: int, b: int) -> Trajectory:
  """Random pictures, rewards and actions of a random policy, as an agent's batch [T+1, B]."""
  rng = np.random.default_rng(0)
  step = TimeStep(
    rng.integers(0, 256, (t + 1, b, 84, 84, 4), np.uint8),
    rng.normal(size=(t + 1, b)).astype(np.float32),
    np.ones((t + 1, b), np.float32),
    np.zeros((t + 1, b), bool),
  )
  mu = rng.normal(size=(t, b, ACTIONS)).astype(np.float32)
  action = rng.integers(0, ACTIONS, (t, b)).astype(np.int32)
  core_state = jax.tree.map(np.asarray, fns.network.initial_state(b))
  return Trajectory(step, action, mu, core_state, np.zeros((t, b), np.int32))


def measure(
  agents: Agents, bindings: Sequence[str], turns: int
) -> tuple[dict[str, Cell], dict[str, list[float]]]:
  """The cell of every agent, and seconds of its update turn by turn."""
  updates: dict[str, Update] = {}
  found: dict[str, Cell] = {}
  for name, (of, own) in agents.items():
    made = cells.attempt(lambda of=of, own=own: {"update": prepare(of, (*own, *bindings))})
    if "error" in made:
      found[name] = made
    else:
      updates[name] = made["update"]
  seconds: dict[str, list[float]] = {name: [] for name in updates}
  for _ in range(turns):
    for name, update in updates.items():
      start = time.perf_counter()
      updates[name] = cycle(update)
      seconds[name].append((time.perf_counter() - start) / len(update.phases))
  for name, update in updates.items():
    median = statistics.median(seconds[name])
    found[name] = {
      "env_steps_per_second": update.env_steps / median,
      "seconds": median,
      "temporary_mib": update.temporary / 2**20,
      "put_seconds": update.put,
    }
  return found, seconds


def show(name: str, cell: Cell) -> None:
  """Prints a line of the table."""
  if "error" in cell:
    print(f"{name:<18}{cell['error']:>15}", flush=True)
    return
  frames = FRAMES * cell["env_steps_per_second"]
  print(
    f"{name:<18}{cell['seconds']:>15.3f}{frames:>12,.0f}{cell['temporary_mib']:>15.0f}"
    f"{cell['put_seconds']:>12.4f}",
    flush=True,
  )


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--bind", action="append", default=[], help="a gin binding for all agents")
  parser.add_argument("--turns", type=int, default=5)
  parser.add_argument("--variants", action="store_true", help="STAC and the family, see above")
  parser.add_argument("--agents", nargs="+", choices=AGENTS, default=list(AGENTS))
  parser.add_argument("--envs", type=int, nargs="+", default=[32], help="trajectories of a batch")
  cells.add_option(parser)
  args = parser.parse_args()
  agents = VARIANTS if args.variants else {name: AGENTS[name] for name in args.agents}
  for envs in args.envs:
    bindings = (f"train.num_envs = {envs}", *args.bind)
    found, seconds = measure(agents, bindings, args.turns)
    print(f"{jax.device_count()} x {jax.devices()[0].device_kind}, {envs} environments")
    print(f"{'agent':<18}{'seconds/update':>15}{'frames/s':>12}{'temporary MiB':>15}{'put, s':>12}")
    for name in agents:
      cells.tell(args.json, envs=envs, what=name, **found[name])
      show(name, found[name])
    for (a, b), bound in BOUNDS.items():
      if a in seconds and b in seconds and not args.variants:
        ratio = statistics.median(x / y for x, y in zip(seconds[a], seconds[b], strict=True))
        print(f"{a} / {b}: {ratio:.2f} (at most {bound} wanted)")


if __name__ == "__main__":
  main()

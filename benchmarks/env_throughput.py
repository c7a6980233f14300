"""Environment steps per second of the environment plugins beside EnvPool itself.

  python benchmarks/env_throughput.py [--num_envs 32] [--cases Catch ...]

Both step the same environments with the same seeds, actions and threads, in turns, so that what
else the machine does falls on both. Reported are medians over the turns; the ratio is the median of
each turn's ratio.
"""

import argparse
import functools
import os
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import envpool
import numpy as np
from dm_env import specs

from selftune.plugins.envs.atari import Atari
from selftune.plugins.envs.dm_control import DMControl
from selftune.plugins.envs.envpool import EnvPool

# name -> plugin, EnvPool's id, calls in a turn
CASES = {
  "Catch": (EnvPool, "Catch-v0", 500),
  "Breakout": (Atari, "Breakout-v5", 10),
  "cartpole swingup": (DMControl, "CartpoleSwingup-v1", 50),
  "walker walk": (functools.partial(DMControl, "walker", "walk"), "WalkerWalk-v1", 20),
}


class Result(NamedTuple):
  """Medians over the turns."""

  name: str
  raw: float  # env steps per second of EnvPool
  plugin: float  # env steps per second of the plugin
  ratio: float  # of the second to the first


def measure(name: str, num_envs: int = 32, turns: int = 31) -> Result:
  """Times plugin `name` of CASES against EnvPool."""
  make, task, calls = CASES[name]
  seeds = tuple(range(num_envs))
  threads = min(num_envs, os.cpu_count() or 1)
  raw = envpool.make(task, "gymnasium", num_envs=num_envs, seed=list(seeds), num_threads=threads)
  plugin = make(num_threads=threads).make(seeds)
  actions = _random_actions(plugin.spec.action, (calls, num_envs))
  raw.reset()
  plugin.reset()
  ways = (raw.step, functools.partial(_step, plugin))
  rates = []
  for turn in range(turns + 1):
    order = (0, 1) if turn % 2 else (1, 0)  # neither always runs first
    rate = {way: num_envs * calls / _seconds(ways[way], actions) for way in order}
    rates.append((rate[0], rate[1]))
  rates = rates[1:]  # the first turn warms up
  return Result(
    name,
    statistics.median(raw_rate for raw_rate, _ in rates),
    statistics.median(plugin_rate for _, plugin_rate in rates),
    statistics.median(plugin_rate / raw_rate for raw_rate, plugin_rate in rates),
  )


def _random_actions(
  spec: specs.DiscreteArray | specs.BoundedArray, shape: tuple[int, ...]
) -> np.ndarray:
  """[*shape, *spec.shape], uniform."""
  rng = np.random.default_rng(0)
  if isinstance(spec, specs.DiscreteArray):
    return rng.integers(spec.num_values, size=shape, dtype=np.int32)
  return rng.uniform(spec.minimum, spec.maximum, (*shape, *spec.shape))


def _step(pool: Any, actions: np.ndarray) -> None:
  pool.send(actions)
  pool.recv()


def _seconds(step: Callable[[np.ndarray], Any], actions: np.ndarray) -> float:
  start = time.perf_counter()
  for action in actions:
    step(action)
  return time.perf_counter() - start


def table(results: list[Result]) -> str:
  """The results as a Markdown table."""
  rows = [
    "| environment | EnvPool, env steps/s | plugin, env steps/s | ratio |",
    "|---|---|---|---|",
    *(f"| {r.name} | {r.raw:,.0f} | {r.plugin:,.0f} | {r.ratio:.2f} |" for r in results),
  ]
  return "\n".join(rows)


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--num_envs", type=int, default=32)
  parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
  args = parser.parse_args()
  print(table([measure(name, args.num_envs) for name in args.cases]))

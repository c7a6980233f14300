"""Environment steps per second of the Real-World RL suite beside raw dm_control.

  python benchmarks/rwrl_throughput.py [--num_envs 32] [--only cartpole]

Raw is one unchanged environment of dm_control in a process on each core, all at once; the plugin
steps the same task at a level, with its perturbed physics, delays, noise and faults, in as many
workers. Both run full episodes of random actions, resets included, in turns, so that what else the
machine does falls on both. Reported are medians over the turns; a ratio is the median of each
turn's ratio. The second one compares steps per second of processor time, of workers and parent
together: unlike the first it does not suffer when other programs keep one of the workers waiting.
"""

import argparse
import multiprocessing
import os
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

CASES = tuple(
  (domain, level)
  for domain in ("cartpole", "walker", "quadruped", "humanoid")
  for level in ("none", "easy", "hard")
)
CALLS = 1001  # of an episode, the one that resets included


class Result(NamedTuple):
  """Medians over the turns."""

  name: str
  raw: float  # env steps per second of dm_control, all cores together
  plugin: float  # env steps per second of the plugin
  ratio: float  # of the second to the first
  cpu_ratio: float  # the same of steps per second of processor time


def measure(domain: str, level: str, num_envs: int, turns: int) -> Result:
  """Times the plugin at a level against dm_control; each steps whole episodes in a turn."""
  from selftune.plugins.envs._rwrl_settings import domains
  from selftune.plugins.envs.rwrl import Rwrl

  cores = len(os.sched_getaffinity(0))
  tasks = [(domain, domains()[domain].task)] * cores
  pool = Rwrl(domain, level, num_workers=cores).make(tuple(range(num_envs)))
  pool.reset()
  rates, cpu_rates = [], []
  with multiprocessing.get_context("forkserver").Pool(cores) as processes:
    processes.map(_raw_episode, tasks, chunksize=1)  # loads
    for _ in range(turns):
      raw = processes.map(_raw_episode, tasks, chunksize=1)
      wall, cpu = _pool_episode(pool)
      rates.append((sum(CALLS / wall for wall, _ in raw), num_envs * CALLS / wall))
      raw_cpu = sum(cpu for _, cpu in raw)
      cpu_rates.append((cores * CALLS / raw_cpu, num_envs * CALLS / cpu))
  pool.close()
  return Result(
    f"{domain} {level}",
    statistics.median(raw for raw, _ in rates),
    statistics.median(plugin for _, plugin in rates),
    statistics.median(plugin / raw for raw, plugin in rates),
    statistics.median(plugin / raw for raw, plugin in cpu_rates),
  )


def _pool_episode(pool: Any) -> tuple[float, float]:
  """Seconds, and seconds of processor time, of one episode of every environment."""
  spec = pool.spec.action
  shape = (CALLS, pool.num_envs, *spec.shape)
  actions = np.random.RandomState(0).uniform(spec.minimum, spec.maximum, shape)
  wall, cpu = time.perf_counter(), time.process_time() + _cpu_seconds(pool.pids)
  for action in actions:
    pool.send(action)
    pool.recv()
  wall = time.perf_counter() - wall
  return wall, time.process_time() + _cpu_seconds(pool.pids) - cpu


def _cpu_seconds(pids: list[int]) -> float:
  ticks = 0
  for pid in pids:
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    ticks += int(fields[11]) + int(fields[12])
  return ticks / os.sysconf("SC_CLK_TCK")


_environments: dict[tuple[str, str], Any] = {}


def _raw_episode(task: tuple[str, str]) -> tuple[float, float]:
  """Seconds, and seconds of processor time, of one episode in this process."""
  from dm_control import suite

  if task not in _environments:
    _environments[task] = suite.load(*task, task_kwargs={"random": os.getpid()})
  environment = _environments[task]
  spec = environment.action_spec()
  actions = np.random.RandomState(0).uniform(spec.minimum, spec.maximum, (CALLS, *spec.shape))
  wall, cpu = time.perf_counter(), time.process_time()
  for action in actions:
    environment.step(action)
  return time.perf_counter() - wall, time.process_time() - cpu


def table(results: list[Result]) -> str:
  """The results as a Markdown table."""
  rows = [
    "| environment | dm_control, env steps/s | plugin, env steps/s | ratio | CPU ratio |",
    "|---|---|---|---|---|",
    *(
      f"| {r.name} | {r.raw:,.0f} | {r.plugin:,.0f} | {r.ratio:.2f} | {r.cpu_ratio:.2f} |"
      for r in results
    ),
  ]
  return "\n".join(rows)


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--num_envs", type=int, default=32)
  parser.add_argument("--turns", type=int, default=3)
  parser.add_argument("--only", default="", help="cases whose name holds this")
  arguments = parser.parse_args()
  cases = [case for case in CASES if arguments.only in " ".join(case)]
  print(table([measure(*case, arguments.num_envs, arguments.turns) for case in cases]))

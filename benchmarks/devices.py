"""Time of an update against simulated devices: what splitting a batch costs, and gains.

  python benchmarks/devices.py [--turns 20]

Each number of devices gets a process of its own, with one thread a device; a batch is 32
trajectories of 20 steps on Catch, the network two layers of 256. Devices beyond the cores of the
machine only show what splitting costs.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

DEVICES = (1, 2, 4, 8)
AGENTS = ("impala", "stac", "stacx")
CONFIG = """
include 'algos/{agent}.gin'
include 'suites/small.gin'
include 'envs/catch.gin'
mlp.hidden = (256, 256)
train.total_env_steps = 100_000
train.learner_devices = None
"""


def measure(agent: str, turns: int) -> float:
  """Median seconds of an update on all devices of this process."""
  import tempfile
  from pathlib import Path

  import jax

  from selftune.core import config
  from selftune.core.engine import single

  with tempfile.TemporaryDirectory() as folder:
    path = Path(folder, "devices.gin")
    path.write_text(CONFIG.format(agent=agent), "utf-8")
    loaded = config.load(path).root
  one = single.SingleRun(loaded, loaded.runtime)
  learner, (actor,), state = one.learner, one.actors, one.init()
  params = learner.actor_params(state, [actor.device])[actor.device]
  batch = learner.put(actor.unroll(params, 0, 0, lambda: False).trajectory)
  actor.close()
  seconds = []
  for _ in range(turns + 2):
    start = time.perf_counter()
    state, metrics = learner.update(state, batch)
    jax.block_until_ready((state, metrics))
    seconds.append(time.perf_counter() - start)
  return statistics.median(seconds[2:])


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--turns", type=int, default=20)
  parser.add_argument("--agent", help=argparse.SUPPRESS)  # in a process of its own
  arguments = parser.parse_args()
  if arguments.agent:
    print(measure(arguments.agent, arguments.turns))
    return
  print(f"{'ms/update':<10}" + "".join(f"{f'{n} devices':>12}" for n in DEVICES))
  for agent in AGENTS:
    row = [alone(agent, devices, arguments.turns) for devices in DEVICES]
    print(f"{agent:<10}" + "".join(f"{1e3 * seconds:>12.1f}" for seconds in row), flush=True)


def alone(agent: str, devices: int, turns: int) -> float:
  """`measure` in a process that has so many devices."""
  count = f"--xla_force_host_platform_device_count={devices}"
  done = subprocess.run(
    [sys.executable, __file__, "--agent", agent, "--turns", str(turns)],
    env=os.environ | {"XLA_FLAGS": f"{count} --xla_cpu_multi_thread_eigen=false"},
    stdout=subprocess.PIPE,
    encoding="utf-8",
    check=True,
  )
  return float(done.stdout)


if __name__ == "__main__":
  main()

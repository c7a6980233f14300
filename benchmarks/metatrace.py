"""Run-steps per second of Metatrace sweeps on mountain car, environment included.

  python benchmarks/metatrace.py [--runs 480] [--steps 500000] [--jax] [--sweep]
  python benchmarks/metatrace.py --jax --counts 480 100000

Scalar, vector and mixed Metatrace, normalised, for many settings at once, on every core: scalar on
tile-coded mountain car, all three on drifting mountain car; by machine code, or with --jax by JAX's
program. Each measurement is the median of five turns, after one that compiles: by the clock, and in
brackets by the CPU time of all threads, times the cores (NumPy: one): what they give if nothing
else runs. `--sweep` adds the cost of a run-step against the number of runs, and one run in NumPy;
`--counts` is of that cost alone, for these numbers of runs.
"""

import argparse
import functools
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cells
import jax
import numpy as np
from cells import Cell

from selftune.core.api import registry
from selftune.core.config import discovery
from selftune.core.experiment import Agent
from selftune.core.machine import platform
from selftune.core.runs.device import NATIVE_STEPS, Runs
from selftune.core.runs.settings import Members
from selftune.plugins.envs.drifting_mountain_car import DriftingMountainCar
from selftune.plugins.envs.mountain_car import MountainCar
from selftune.plugins.metaopt.ac_lambda import AcLambda
from selftune.plugins.networks.linear import Linear
from selftune.plugins.networks.tile_coding import TileCoding
from selftune.plugins.tuners.metatrace import Metatrace
from selftune.plugins.tuners.metatrace_mixed import MetatraceMixed
from selftune.plugins.tuners.metatrace_vector import MetatraceVector

WANTED = {  # run-steps per second on two quiet cores, by tuner and whether features drift
  (Metatrace, False): 5_000_000,
  (Metatrace, True): 1_000_000,
  (MetatraceVector, True): 1_000_000,
  (MetatraceMixed, True): 1_000_000,
}
COUNTS = (1, 2, 10, 48, 120, 480, 2000)
ALPHAS = [2.0**-k for k in range(3, 15)]
MUS = [2.0**-k for k in range(6, 10)]


class Rate(NamedTuple):
  """Run-steps per second."""

  wall: float
  cpu: float  # were all cores free

  def __str__(self) -> str:
    return f"{self.wall:,.0f} [{self.cpu:,.0f}] run-steps/s"


def measure(tuner, count: int, steps: int, drifting: bool, native: bool) -> Rate:
  """The rate of so many runs, a grid of alpha_0 and mu, in turns of about so many run-steps."""
  env, network = (DriftingMountainCar(), Linear()) if drifting else (MountainCar(), TileCoding())
  name = registry.name_of(tuner)
  settings = {
    "ac_lambda.alpha": [ALPHAS[k % len(ALPHAS)] for k in range(count)],
    f"{name}.mu": [MUS[k // len(ALPHAS) % len(MUS)] for k in range(count)],
  }
  agent = Agent(network=network, metaopt=AcLambda(tuner))
  runs = Runs(Members(agent, range(count), settings), env, jax.devices(), native=native)
  dense = drifting and not native  # an iteration is one step
  iterations = max(1, steps // count // (1 if dense else NATIVE_STEPS))
  states, _ = jax.block_until_ready(runs.advance(runs.init(), iterations))  # compiles
  wall, cpu = [], []
  for _ in range(5):
    start = time.perf_counter(), time.process_time()
    states, ends = jax.block_until_ready(runs.advance(states, iterations))
    made = count * ends.ended.shape[1]
    wall.append(made / (time.perf_counter() - start[0]))
    cpu.append(len(jax.devices()) * made / (time.process_time() - start[1]))
  assert int(runs.of_each(states.learner.failure).max()) < 0
  return Rate(statistics.median(wall), statistics.median(cpu))


def numpy_run(alpha: float = 2.0**-7, mu: float = 2.0**-7) -> Iterator[None]:
  """One run of the same in NumPy, a step at a time, each vector operation over all parameters."""
  gamma, lambda_, actions, features = 0.99, 0.8, 3, 1600
  rng = np.random.default_rng(0)
  w, z, h = (np.zeros((1 + actions, features)) for _ in range(3))
  beta, v, z_beta, u = np.log(alpha), 0.0, 0.0, 0.0
  offsets = np.arange(16)[:, None] * np.array([1, 3]) % 16 / 16
  low, width = np.array([-1.2, -0.07]), np.array([1.8, 0.14])

  def active(position, velocity):
    cell = ((np.array([position, velocity]) - low) / width * 9 + offsets).astype(int)
    return cell[:, 0] + 10 * cell[:, 1] + 100 * np.arange(16)

  position, velocity, steps = rng.uniform(-0.6, -0.4), 0.0, 0
  phi = active(position, velocity)
  while True:
    out = w[:, phi].sum(1)
    p = np.exp(out[1:] - out[1:].max())
    p /= p.sum()
    action = rng.choice(actions, p=p)
    velocity = velocity + 0.001 * (action - 1) - 0.0025 * np.cos(3 * position)
    velocity = min(max(velocity, -0.07), 0.07)
    position = min(max(position + velocity, -1.2), 0.6)
    velocity = 0.0 if position == -1.2 and velocity < 0 else velocity
    steps += 1
    ended = position >= 0.5 or steps == 200
    next_phi = active(position, velocity)
    bootstrap = 0.0 if ended else gamma
    delta = -1 + bootstrap * w[0, next_phi].sum() - out[0]
    g = np.concatenate([[1.0], 0.5 * ((np.arange(actions) == action) - p)])
    h_phi = h[:, phi].sum(1)
    d_h = bootstrap * h[0, next_phi].sum() - h_phi[0]
    z *= gamma * lambda_
    z[:, phi] += g[:, None]
    z_beta = gamma * lambda_ * z_beta + g @ h_phi
    d = z_beta * delta
    v = max(abs(d), v + mu * (abs(d) - v))
    beta += mu * d / (v if v > 0 else 1)
    effective = np.exp(beta) * 16 * (g @ g)
    u = max(effective, u + (1 - gamma * lambda_) * (effective - u))
    beta -= np.log(max(u, 1))
    h += np.exp(beta) * (delta + d_h) * z
    w += np.exp(beta) * delta * z
    phi = next_phi
    if ended:
      z[:], z_beta, u = 0, 0.0, 0.0
      position, velocity, steps = rng.uniform(-0.6, -0.4), 0.0, 0
      phi = active(position, velocity)
    yield


def numpy_rate(steps: int) -> Rate:
  run = numpy_run()
  start = time.perf_counter(), time.process_time()
  for _ in range(steps):
    next(run)
  return Rate(steps / (time.perf_counter() - start[0]), steps / (time.process_time() - start[1]))


def against_runs(counts: Sequence[int], args: argparse.Namespace) -> None:
  """Tells the rates of scalar Metatrace on mountain car for these numbers of runs."""

  def rate(count: int) -> Cell:
    found = measure(Metatrace(), count, args.steps, False, not args.jax)
    return {"run_steps_per_second": found.wall, "of_cpu_time": found.cpu}

  for count in counts:
    found = cells.attempt(functools.partial(rate, count))
    cells.tell(args.json, runs=count, **found)
    if "error" in found:
      print(f"{count:>5} runs: {found['error']}", flush=True)
    else:
      of = Rate(*found.values())
      print(f"{count:>5} runs: {of}, {1e6 / of.wall:.2f} us a run-step", flush=True)


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--runs", type=int, default=480)
  parser.add_argument("--steps", type=int, default=500_000, help="run-steps of a turn, about")
  parser.add_argument("--jax", action="store_true", help="by JAX's program")
  parser.add_argument("--counts", type=int, nargs="+", help="numbers of runs, of scalar Metatrace")
  cells.add_option(parser)
  parser.add_argument("--sweep", action="store_true", help="against the number of runs, and NumPy")
  args = parser.parse_args()
  discovery.load_all()
  platform.prepare(None)
  load = os.getloadavg()[0]
  print(f"{len(jax.devices())} x {jax.devices()[0].device_kind}; load average {load:.1f}")
  if args.counts:
    against_runs(args.counts, args)
    return
  for (tuner, drifting), wanted in WANTED.items():
    # JAX's dense form takes about twenty times as long.
    steps = args.steps // (20 if args.jax and drifting else 1)
    rate = measure(tuner(), args.runs, steps, drifting, not args.jax)
    what = f"{'drifting ' if drifting else ''}mountain car, @{registry.name_of(tuner())}()"
    cells.tell(args.json, runs=args.runs, what=what, run_steps_per_second=rate.wall)
    print(f"{what}: {rate} ({wanted:,} wanted)", flush=True)
  if not args.sweep:
    return
  against_runs(COUNTS, args)
  print(f"one run in NumPy: {numpy_rate(args.steps // 100)}")


if __name__ == "__main__":
  main()

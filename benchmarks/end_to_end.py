"""Env steps per second of training, beside what its parts allow; by default on Breakout.

  python benchmarks/end_to_end.py [--config experiments/atari_stac] [--updates 6]

Parts, each measured alone in the same process: stepping the environments, acting (the actor's loop
over environments that cost nothing), and the update. On a CPU they share the cores, so the bound is
one over the sum of their times; with learners on an accelerator, acting and stepping overlap with
the update and the bound is the slower of the two.

For Atari, two more: the plain form has one pool, one learner device and no overlap (lag 0: acting
and learning take turns), no micro-batches, and XLA's own gradient of max-pooling; raw EnvPool steps
with random actions.
"""

import argparse
import dataclasses
import functools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cells
import env_throughput
import jax
import numpy as np

from selftune.core import config
from selftune.core.engine import single
from selftune.core.engine.actor import Rollout
from selftune.core.engine.loop import Progress, run
from selftune.core.engine.sources import concatenate
from selftune.core.machine import platform
from selftune.core.record.checkpoint import Checkpointer
from selftune.plugins.envs.atari import Atari

Measured = dict[str, Any]  # seconds by part, and env steps an update
PLAIN = (
  "sebulba.lag = 0",  # the actor waits for the learner, the learner for the actor
  "sebulba.groups = 1",
  "train.learner_devices = (0,)",
  "impala_resnet.pooling = 'xla'",
  "train.cpu_micro_batch = None",
)


class FreePool:
  """Environments that cost nothing: the first timestep of real ones, for ever."""

  def __init__(self, spec, timestep):
    self.spec, self._timestep = spec, timestep
    self.num_envs = len(timestep.first)

  def reset(self, stagger=False):
    return self._timestep

  def send(self, actions):
    pass

  def recv(self):
    return self._timestep._replace(first=np.zeros(self.num_envs, bool))

  def close(self):
    pass


class TimedSource:
  """A source that notes when the learner asked for each batch."""

  def __init__(self, asked: list[float], run, source, *_):
    self._source, self.devices, self._asked = source, source.devices, asked
    self.publish, self.close = source.publish, source.close

  def get(self, index):
    self._asked.append(time.perf_counter())
    return self._source.get(index)

  def __enter__(self):
    return self

  def __exit__(self, *_):
    pass


class NoLog:
  """Takes the place of a logger."""

  wall_time = 0.0

  def log(self, row, env_steps):
    pass

  def log_episodes(self, episodes):
    pass


def measure(name: str, bindings: list[str], updates: int, parts: bool) -> Measured:
  """Seconds that an update's worth of env steps takes: each part alone if asked, and end to end."""
  steps = f"train.total_env_steps = {10**9}"
  loaded = config.load(name, [*bindings, steps, "train.log_seconds = 1e9"]).root
  platform.prepare(loaded.learner_devices, loaded.runtime.actor_devices)
  one = single.SingleRun(loaded, loaded.runtime)
  learner, actors, state = one.learner, one.actors, one.init()
  params = learner.actor_params(state, {actor.device for actor in actors})
  first = actors[0].timestep
  flat = [pool for actor in actors for pool in actor.pools]
  none = [[FreePool(pool.spec, first) for pool in actor.pools] for actor in actors]
  free = single.make_actors(loaded, loaded.runtime, one.fns, none)
  still = [np.zeros((p.num_envs, *p.spec.action.shape), p.spec.action.dtype) for p in flat]

  def step() -> None:
    for _ in range(loaded.unroll_length - loaded.overlap):
      for pool, action in zip(flat, still, strict=True):
        pool.send(action)
      for pool in flat:
        pool.recv()

  def act() -> list[Rollout]:
    return [actor.unroll(params[actor.device], 0, 0, lambda: False) for actor in free]

  batch = learner.put(concatenate(act()).trajectory)

  def update() -> None:
    nonlocal state
    state, _ = jax.block_until_ready(learner.update(state, batch))

  alone = (step, act, update) if parts else ()
  seconds = {f.__name__: median_seconds(f, updates) for f in alone}

  warm_up = 2
  total = (warm_up + updates) * loaded.steps_per_update
  short = dataclasses.replace(loaded, total_env_steps=total)
  asked: list[float] = []
  timed = single.SingleRun(short, short.runtime, beside=functools.partial(TimedSource, asked))
  with tempfile.TemporaryDirectory() as folder:
    checkpoints = Checkpointer(Path(folder))
    run(short, timed, NoLog(), checkpoints, timed.init(), Progress(), lambda: False)
    checkpoints.close()
  seconds["end to end"] = (asked[-1] - asked[warm_up - 1]) / updates
  clock = time.time() - time.perf_counter()
  return {
    "steps": loaded.steps_per_update,
    "cpu": jax.default_backend() == "cpu",
    "window": (clock + asked[warm_up - 1], clock + asked[-1]),
    **seconds,
  }


def rates(found: Measured) -> dict[str, float]:
  """Env steps per second of what was measured."""
  parts = ("step", "act", "update", "end to end")
  return {part: found["steps"] / found[part] for part in parts if part in found}


def median_seconds(f: Callable[[], Any], times: int) -> float:
  """Median seconds of `f()`, after one call that compiles."""
  f()
  seconds = []
  for _ in range(times):
    start = time.perf_counter()
    f()
    seconds.append(time.perf_counter() - start)
  return statistics.median(seconds)


def in_subprocess(
  name: str, bindings: Sequence[str], updates: int, what: str = "parts"
) -> Measured:
  """`measure` in a process of its own, as device settings belong to a process."""
  command = [sys.executable, __file__, "--one", what, "--config", name, "--updates", str(updates)]
  command += [word for binding in bindings for word in ("--bind", binding)]
  done = subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8")
  return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--config", default="experiments/atari_stac")
  parser.add_argument("--bind", action="append", default=[], help="a gin binding")
  parser.add_argument("--updates", type=int, default=6, help="updates that are timed")
  parser.add_argument(
    "--one", choices=("parts", "end_to_end"), help="print one measurement as JSON and end"
  )
  cells.add_option(parser)
  args = parser.parse_args()
  if args.one:
    found = measure(args.config, args.bind, args.updates, args.one == "parts")
    cells.tell(args.json, unit="env steps/s", **rates(found), window=found["window"])
    print(json.dumps(found))
    return
  ours = in_subprocess(args.config, args.bind, args.updates)

  rate = rates(ours)
  cells.tell(args.json, unit="env steps/s", **rate)
  parts = [ours[part] for part in ("step", "act", "update")]
  bound = ours["steps"] / (sum(parts) if ours["cpu"] else max(parts[0] + parts[1], parts[2]))
  for what, value in {**rate, "bound": bound}.items():
    print(f"{what:<14}{value:>12,.1f} env steps/s")
  reached = rate["end to end"]
  print(f"end to end / bound:       {reached / bound:.2f} (at least 0.9 wanted)")
  if not isinstance(config.load(args.config, args.bind).root.env, Atari):
    return
  plain = in_subprocess(args.config, [*args.bind, *PLAIN], args.updates, "end_to_end")
  plain_rate = plain["steps"] / plain["end to end"]
  raw = env_throughput.measure("Breakout").raw
  print(f"plain form    {plain_rate:>12,.1f} env steps/s")
  print(f"raw EnvPool   {raw:>12,.1f} env steps/s")
  print(f"end to end / plain form:  {reached / plain_rate:.2f} (at least 2 wanted)")
  print(f"end to end / raw EnvPool: {reached / raw:.4f}")


if __name__ == "__main__":
  main()

"""Environments and a network whose every number can be told in advance, and faults on demand."""

import contextlib
import dataclasses
import importlib.util
import json
import math
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs
from jax.experimental.compilation_cache import compilation_cache

from selftune.core.api import jsonl, registry
from selftune.core.api.contracts import Network
from selftune.core.api.types import EnvSpec, HeadOut, TimeStep
from selftune.core.config import discovery
from selftune.core.engine.loop import Progress
from selftune.core.record import plotting

ACTIONS = 3
SPEC = EnvSpec(specs.Array((4,), np.float32), specs.DiscreteArray(ACTIONS, dtype=np.int32))
LENGTHS = (2, 3, 5, 4)  # an episode of the environment with seed s has LENGTHS[s % 4] transitions


@dataclasses.dataclass(frozen=True)
class Counting:
  """Counts: observation = (steps into the episode, seed mod 4, last action, episode).

  An episode of seed s ends after LENGTHS[s % 4] transitions, truncated where s is odd. The reward
  is action + 10 x steps. At its `at`-th receive a pool fails as `fault` says.
  """

  fault: str = ""  # 'recv' or 'send' raises, 'hang' waits for `release`, 'nan' is a reward
  at: int = 10
  step_seconds: float = 0.0

  def make(self, seeds):
    pool = CountingPool(self, np.array(seeds))
    OPENED.append(pool)
    return pool


OPENED: list["CountingPool"] = []
ERROR = RuntimeError("the environment failed")
release = threading.Event()


class CountingPool:
  def __init__(self, plugin, seeds):
    self.plugin, self.seeds = plugin, seeds
    self.spec, self.num_envs = SPEC, len(seeds)
    self.sent, self.received, self.closed = [], 0, False
    self.failed_at = None  # time of the fault

  def reset(self, stagger=False):
    self.count, self.episode = np.zeros(self.num_envs, int), np.zeros(self.num_envs, int)
    self.done = np.zeros(self.num_envs, bool)
    zeros = np.zeros(self.num_envs, np.float32)
    return TimeStep(self._observation(zeros), zeros, zeros + 1, np.ones(self.num_envs, bool))

  def send(self, actions):
    self._fail("send")
    self.sent.append(np.array(actions))

  def recv(self):
    self.received += 1
    self._fail("recv")
    self._fail("hang")
    time.sleep(self.plugin.step_seconds)
    action, first = self.sent[-1], self.done
    self.episode += first
    self.count = np.where(first, 0, self.count + 1)
    self.done = self.count == np.take(LENGTHS, self.seeds % 4)
    reward = np.where(first, 0, action + 10 * self.count).astype(np.float32)
    if self._fail("nan"):
      reward[:] = np.nan
    discount = np.where(self.done & (self.seeds % 2 == 0), 0, 1).astype(np.float32)
    return TimeStep(self._observation(np.where(first, 0, action)), reward, discount, first)

  def close(self):
    assert not self.closed
    self.closed = True

  def _observation(self, action):
    columns = (self.count, self.seeds % 4, action, self.episode)
    return np.stack(columns, axis=1).astype(np.float32)

  def _fail(self, fault):
    if self.plugin.fault != fault or self.received < self.plugin.at:
      return False
    self.failed_at = time.monotonic()
    if fault in ("recv", "send"):
      raise ERROR
    if fault == "hang":
      # In steps: Python's signal handlers wait for the main thread to wake up.
      assert any(release.wait(0.1) for _ in range(600))
    return True


@dataclasses.dataclass(frozen=True)
class Recurrent:
  """Linear heads on the observation and a core that counts the timesteps of the episode."""

  def build(self, spec, policy_size, heads):
    def init(key):
      keys = jax.random.split(key, 2)
      shape = (heads, math.prod(spec.observation.shape) + 1)
      return {
        "policy": 0.1 * jax.random.normal(keys[0], (*shape, policy_size)),
        "value": 0.01 * jax.random.normal(keys[1], shape),
      }

    def unroll(params, timestep, core_state, gamma):
      def step(count, first):
        count = jnp.where(first, 0, count) + 1
        return count, count

      core_state, counts = jax.lax.scan(step, core_state, timestep.first)
      observation = timestep.observation.reshape(*counts.shape, -1)
      x = jnp.concatenate([observation, counts[..., None]], axis=-1)
      p = len(gamma)
      policy = jnp.einsum("tbd,pda->ptba", x, params["policy"][:p])
      return HeadOut(policy, jnp.einsum("tbd,pd->ptb", x, params["value"][:p])), core_state

    return Network(init, lambda batch: jnp.zeros(batch, jnp.float32), unroll)


@dataclasses.dataclass(frozen=True)
class Recorder:
  """Keeps the rows, or fails at the `fails_at`-th."""

  fails_at: int = 10**9
  required = True

  def open(self, run):
    RECORDED.clear()
    MEDIA.clear()
    return RecorderLog(self.fails_at)


RECORDED: list[dict[str, float]] = []
MEDIA: list[tuple[str, Path]] = []
WRITER_ERROR = OSError("the writer failed")


class RecorderLog:
  def __init__(self, fails_at):
    self._fails_at = fails_at

  def write(self, row):
    if len(RECORDED) == self._fails_at:
      raise WRITER_ERROR
    RECORDED.append(dict(row))

  def write_episodes(self, episodes):
    pass

  def write_media(self, name, path):
    MEDIA.append((name, path))

  def close(self):
    pass


MOUNTAIN_CAR_RUNS = """
include 'algos/ac_lambda.gin'
tuner = @metatrace()
train.env = @mountain_car()
mountain_car.max_steps = 9
agent.network = @tile_coding()
tile_coding.tilings = 4
tile_coding.tiles = 4
train.runtime = @runs()
train.total_env_steps = 1000
train.log_seconds = 0.0
runs.iterations = 2
"""

PLUGINS = {
  "counting": ("env", Counting),
  "recurrent": ("network", Recurrent),
  "recorder": ("writer", Recorder),
}


def register(monkeypatch=None):
  """Registers the plugins of this file; with `monkeypatch`, until its test has ended."""
  discovery.load_all()
  if monkeypatch is not None:
    for table in ("_classes", "_kinds"):
      monkeypatch.setattr(registry, table, dict(getattr(registry, table)))
  for name, (kind, cls) in PLUGINS.items():
    if name in _KNOWN_TO_GIN:  # gin has no way to forget a name
      registry._classes[name], registry._kinds[name] = cls, kind
    else:
      registry.register(kind, name)(cls)
      _KNOWN_TO_GIN.add(name)


_KNOWN_TO_GIN: set[str] = set()

CONFIG = """
train.env = @counting()
train.agent = @agent()
train.runtime = @lockstep()
train.writers = (@jsonl(), @recorder())
train.num_envs = 4
train.unroll_length = 5
train.total_env_steps = 120
train.log_seconds = 0.0
agent.network = @recurrent()
agent.objective = @objective()
objective.corrector = @vtrace()
objective.losses = (@policy_gradient(), @value(), @entropy())
objective.optimizer = @rmsprop()
rmsprop.learning_rate = 1e-4
agent.metaopt = @fixed()
"""  # six updates


def configuration(folder, monkeypatch):
  """A gin file of a quick run with these plugins, which are registered until the test has ended."""
  register(monkeypatch)
  monkeypatch.setattr(plotting, "plot", lambda *args: None)  # takes longer than the runs
  OPENED.clear()
  release.clear()
  path = folder / "config.gin"
  path.write_text(CONFIG)
  return str(path)


SOON = 30  # seconds within which what does not hang has ended, on a busy machine too


def wait_for(condition, seconds=60):
  deadline = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.02)


@contextlib.contextmanager
def compiled_once(folder):
  """Runs within it share their compiled programs, those in processes of their own too."""
  options = {
    "jax_compilation_cache_dir": str(folder),
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
  }
  before = {name: getattr(jax.config, name) for name in options}
  with pytest.MonkeyPatch.context() as monkeypatch:
    for name, value in options.items():
      monkeypatch.setenv(name.upper(), str(value))
    for values in (options, before):
      for name, value in values.items():
        jax.config.update(name, value)
      compilation_cache.reset_cache()  # else JAX keeps to what it found when it first compiled
      if values is options:
        yield


_RUN = f"""
import json, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
import fakes
from selftune.core import train as training
fakes.register()
config, workdir, resume, *bindings = sys.argv[1:]
progress = training.train(config, bindings, Path(workdir), resume == "True")
print(json.dumps(progress.to_json()), flush=True)
"""


@contextlib.contextmanager
def process(config, workdir, *bindings, resume=False, **environment):
  """A training run in a process of its own, killed at the end of the context."""
  command = [sys.executable, "-c", _RUN, config, str(workdir), str(resume), *bindings]
  running = subprocess.Popen(
    command,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env=os.environ | environment,
  )
  try:
    yield running
  finally:
    running.kill()
    running.communicate(timeout=10)


def progress(out):
  """What a process returned from training."""
  return Progress.from_json(json.loads(out.splitlines()[-1]))


def rows(workdir, name="metrics"):
  path = workdir / f"{name}.jsonl"
  return list(jsonl.read(path)) if path.exists() else []


def checkpoints(workdir):
  """The updates that have a checkpoint, in order."""
  found = (workdir / "checkpoints").glob("*")
  return sorted(int(path.name) for path in found if path.name.isdecimal())


def checksums(workdir, update=-1):
  """CRC-32 of every array of a checkpoint, the newest by default, by name."""
  update = checkpoints(workdir)[-1] if update < 0 else update
  document = workdir / "checkpoints" / str(update) / "document" / "metadata"
  return {n: array["crc32"] for n, array in json.loads(document.read_text())["arrays"].items()}


class Ended:
  """A process that has ended with this exit code."""

  def __init__(self, code):
    self.code = code

  def poll(self):
    return self.code


def processes(train):
  """A class in place of `Processes`: a point is `train(workdir, {name: value})`, an exit code."""

  class Fake:
    def __init__(self, workers, lock):
      self.workers = workers or 1

    def start(self, task):
      values = dict(bind.split("=", 1) for bind in task.bindings if "=" in bind)
      return Ended(train(task.workdir, values))

  return Fake


# Extras that tests do not ask for, by what names of experiments begin with.
LIBRARIES = {"brax": "brax", "playground": "mujoco_playground", "craftax": "craftax"}


def skip_without_library(experiment):
  """Skips a test of an experiment whose environments are in an extra that is not installed."""
  library = LIBRARIES.get(experiment.removeprefix("experiments/").partition("_")[0])
  if library is not None and importlib.util.find_spec(library) is None:
    pytest.skip(f"{library} is not installed")

"""The same numbers on 1, 2 and 8 simulated devices, in a process that has so many."""

import dataclasses
import os
import platform
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import small

from selftune.core.api.types import LearnerState
from selftune.core.runs.device import Runs
from selftune.core.runs.settings import Members
from selftune.plugins.envs.mountain_car import MountainCar
from selftune.plugins.metaopt.ac_lambda import AcLambda
from selftune.plugins.metaopt.fixed import Fixed
from selftune.plugins.metaopt.metagradient import Metagradient
from selftune.plugins.networks.tile_coding import TileCoding
from selftune.plugins.tuners.metatrace import Metatrace

DEVICES = (1, 2, 8)
T, B, UPDATES = 3, 8, 3
TUNED = Metagradient(
  tune=("leaky_vtrace.gamma", "value.cost", "rmsprop.*"),
  learning_rate=0.1,
)


def learned(agent):
  """The state after some updates, by the number of devices; and the first one."""
  batches = [small.trajectory(seed, T, B) for seed in range(UPDATES)]

  def state(devices, updates):
    learner = small.learner(agent, devices, B, T)
    state = small.first_state(learner, batches[0])
    for batch in batches[:updates]:
      state, _ = learner.update(state, learner.put(batch))
    assert len(state.step.sharding.device_set) == devices
    return jax.device_get(state._replace(key=()))

  return {n: state(n, UPDATES) for n in DEVICES}, state(1, 0)


def runs():
  """The states of ten runs after some iterations, likewise."""
  agent = small.Agent(network=TileCoding(), metaopt=AcLambda(Metatrace()))
  alphas = {"ac_lambda.alpha": [2.0**-k for k in range(5, 15)]}

  def state(devices, iterations):
    members = Members(agent, range(10), alphas)
    runs = Runs(members, MountainCar(max_steps=11), jax.devices()[:devices])
    state = runs.init()
    if iterations:
      state, _ = runs.advance(state, iterations)
    assert len(state.env_steps.sharding.device_set) == devices
    learner = state.learner._replace(key=())
    return jax.tree.map(runs.of_each, (learner, state.returns, state.finished))

  return {n: state(n, 2) for n in DEVICES}, state(1, 0)


def batch_of_runs(agent, runs, sharing):
  """The states of few runs, each with a batch that devices share, likewise; and all that ended."""

  def state(devices, iterations, micro_batch=None):
    members = Members(agent, range(runs), {}, B, T, 9, max_episodes=30)
    made = Runs(members, MountainCar(max_steps=7), jax.devices()[:devices], micro_batch=micro_batch)
    states, ended = made.init(), ()
    if iterations:
      assert len(states.returns.sharding.device_set) == sharing[devices]
      assert len(states.returns.addressable_data(0)[0]) == B * min(devices, runs) / sharing[devices]
      states, ends = made.advance(states, iterations)
      metrics = {k: x for k, x in made.metrics.items() if "is_ratio/q" not in k}
      ended = jax.tree.map(made.of_each, (ends, metrics))
      resumed = made.resume(jax.device_get(made.saved(states)))
      assert resumed.returns.sharding.is_equivalent_to(states.returns.sharding, 2)
    learner = states.learner._replace(key=())
    seen = (states.timestep, states.returns, states.lengths, states.finished, states.env_steps)
    return jax.tree.map(made.of_each, (learner, seen)), ended

  found = {n: state(n, 8) for n in DEVICES}
  assert found[1][0][1][-2].tolist() == [24] * runs  # episodes: three of each environment
  assert found[1][0][1][-1].tolist() == [8 * T * B] * runs
  close(state(2, 8, micro_batch=2), found[1])
  return found, state(1, 0)


CASES = {
  "fixed": lambda: learned(small.agent(Fixed())),
  "stac": lambda: learned(small.agent(TUNED)),
  "stacx": lambda: learned(small.agent(TUNED, heads=3)),
  "runs": runs,
  "a run": lambda: batch_of_runs(small.agent(Fixed()), 1, {1: 1, 2: 2, 8: 8}),
  "random heads": lambda: batch_of_runs(
    small.agent(Fixed(), heads=3, behaviour="random"), 1, {1: 1, 2: 2, 8: 8}
  ),
  "stac, next batch": lambda: batch_of_runs(
    small.agent(dataclasses.replace(TUNED, outer_batch="next")), 3, {1: 1, 2: 2, 8: 6}
  ),
}


def close(tree, other):
  one = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
  jax.tree.map(one, tree, other)


def check(case):
  """Called in a process of its own."""
  states, first = CASES[case]()
  for devices in DEVICES[1:]:
    close(states[devices], states[1])
  learner = lambda state: next(x for x in _nodes(state) if isinstance(x, LearnerState))
  before, after = learner(first).params, learner(states[1]).params
  params = jax.tree.map(lambda a, b: np.max(np.abs(a - b), initial=0), before, after)
  assert min(jax.tree.leaves(params)) > 1e-3  # there is something to see


def _nodes(state):
  """What a nested tuple holds, itself first."""
  yield state
  if type(state) is tuple:
    for part in state:
      yield from _nodes(part)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_devices_change_nothing(case):
  flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
  code = f"import test_devices; test_devices.check({case!r})"
  done = subprocess.run(
    [sys.executable, "-c", code],
    cwd=Path(__file__).parent,
    env=os.environ | {"XLA_FLAGS": flags},
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr


ORTHOGONAL = """
import dataclasses, jax
jax.config.update("jax_num_cpu_devices", 2)
from selftune.core import config
from selftune.core.runs import independent
from selftune.plugins.networks.linear import Linear

def build(self, spec, policy_size, heads, build=Linear.build):
  network = build(self, spec, policy_size, heads)
  def init(key):  # as orthogonal initialisers do; batched over runs, it calls LAPACK in parallel
    params = network.init(key)
    q, _ = jax.numpy.linalg.qr(jax.random.normal(key, (400, 64)))
    return params | {"extra": q}
  return network._replace(init=init)

Linear.build = build
bindings = ("agent.network = @linear()", "runs.native = False", "tuner = @constant_step()")
experiment = config.load("experiments/metatrace_mountain_car", bindings).root
runs = independent.make_runs(experiment, experiment.runtime, jax.devices())
for _ in range(6):
  jax.block_until_ready(runs.init().learner.step)
print(len(runs.init().learner.step.sharding.device_set))
"""


@pytest.mark.slow
def test_runs_with_an_orthogonal_initialiser_start_on_several_devices():
  done = subprocess.run(
    [sys.executable, "-c", ORTHOGONAL],
    cwd=Path(__file__).parent,
    capture_output=True,
    text=True,
    timeout=200,
  )
  assert done.stdout.split() == ["2"], done.stderr


ARENAS = """
import ctypes, os, threading
from selftune.core.machine import platform
platform.prepare((0,))
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fdopen.restype = ctypes.c_void_p
together = threading.Barrier(8)
def allocate():
  libc.malloc(1000)
  together.wait(20)
threads = [threading.Thread(target=allocate) for _ in range(8)]
[t.start() for t in threads], [t.join() for t in threads]
libc.malloc_info(0, ctypes.c_void_p(libc.fdopen(1, b"w")))
libc.fflush(None)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a matter of glibc")
@pytest.mark.parametrize("wish, arenas", [({}, 2), ({"MALLOC_ARENA_MAX": "4"}, 4)])
def test_threads_share_few_arenas(wish, arenas):
  command = [sys.executable, "-c", ARENAS]
  done = subprocess.run(command, env=os.environ | wish, capture_output=True, text=True, check=True)
  assert done.stdout.count("<heap nr=") == arenas

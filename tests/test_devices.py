"""The same numbers on 1, 2 and 8 simulated devices, in a process that has so many."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import small

from selftune.core.runs.device import Runs
from selftune.core.runs.settings import Members
from selftune.plugins.envs.mountain_car import MountainCar
from selftune.plugins.losses.policy_kl import PolicyKL
from selftune.plugins.metaopt.ac_lambda import AcLambda
from selftune.plugins.metaopt.fixed import Fixed
from selftune.plugins.metaopt.metagradient import Metagradient
from selftune.plugins.networks.tile_coding import TileCoding
from selftune.plugins.tuners.metatrace import Metatrace

DEVICES = (1, 2, 8)
T, B, UPDATES = 3, 8, 3
TUNED = Metagradient(
  tune=("leaky_vtrace.gamma", "value.cost", "rmsprop.*"),
  outer_losses=(PolicyKL(),),
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


CASES = {
  "fixed": lambda: learned(small.agent(Fixed())),
  "stac": lambda: learned(small.agent(TUNED)),
  "stacx": lambda: learned(small.agent(TUNED, heads=3)),
  "runs": runs,
}


def check(case):
  """Called in a process of its own."""
  states, first = CASES[case]()
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
  for devices in DEVICES[1:]:
    jax.tree.map(close, states[devices], states[1])
  moved = jax.tree.map(lambda a, b: np.max(np.abs(a - b), initial=0), states[1], first)
  params = moved[0].params if case == "runs" else moved.params
  assert min(jax.tree.leaves(params)) > 1e-3  # there is something to see


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
bindings = ("agent.network = @linear()", "runs.repeats = 1", "tuner = @constant_step()")
experiment = config.load("experiments/metatrace_mountain_car", bindings).root
runs = independent.make_runs(experiment, experiment.runtime, jax.devices())
for _ in range(40):
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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a matter of glibc")
@pytest.mark.parametrize("wish, arenas", [({}, 2), ({"MALLOC_ARENA_MAX": "4"}, 4)])
def test_threads_share_few_arenas(wish, arenas):
  command = [sys.executable, "-c", ARENAS]
  done = subprocess.run(command, env=os.environ | wish, capture_output=True, text=True, check=True)
  assert done.stdout.count("<heap nr=") == arenas

"""What an accelerator computes is what the CPU does, and what is chosen by the platform.

`pytest -m gpu` runs these where there is an accelerator; elsewhere they are skipped.
"""

import jax
import numpy as np
import pytest
import small
from dm_env import specs

from selftune.core import config
from selftune.core import train as training
from selftune.core.agent.functions import Functions
from selftune.core.api import jsonl
from selftune.core.api.types import EnvSpec
from selftune.core.engine import single
from selftune.core.engine.learner import Learner
from selftune.core.runs.device import Runs
from selftune.core.runs.settings import Members
from selftune.plugins.envs.mountain_car import MountainCar
from selftune.plugins.metaopt.ac_lambda import AcLambda
from selftune.plugins.metaopt.fixed import Fixed
from selftune.plugins.metaopt.metagradient import Metagradient
from selftune.plugins.networks import _layers
from selftune.plugins.networks.impala_resnet import ImpalaResnet
from selftune.plugins.networks.tile_coding import TileCoding
from selftune.plugins.tuners.metatrace import Metatrace

pytestmark = pytest.mark.gpu
PICTURES = EnvSpec(specs.Array((12, 12, 4), np.uint8), specs.DiscreteArray(small.ACTIONS))
SMALL_RESNET = ImpalaResnet(channels=(4, 8))


@pytest.fixture(autouse=True)
def devices():
  """The CPU's first device and the accelerator's; float32 is float32 on both."""
  if jax.default_backend() == "cpu":
    pytest.skip("there is no accelerator")
  with jax.default_matmul_precision("float32"):
    yield jax.devices("cpu")[0], jax.devices()[0]


def close(found, expected, rtol=1e-3, atol=1e-5):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), found, expected)


def pictures(seed):
  """A random trajectory [6, 4] of pictures."""
  trajectory = small.trajectory(seed)
  observation = np.random.default_rng(seed).integers(0, 256, (6, 4, 12, 12, 4), np.uint8)
  return trajectory._replace(timestep=trajectory.timestep._replace(observation=observation))


@pytest.mark.parametrize("heads, metaopt", [(1, Fixed()), (3, Metagradient(tune=("*",)))])
@pytest.mark.parametrize("network", [small.SmallNetwork(), SMALL_RESNET])
def test_updates_equal_those_of_the_cpu(devices, network, heads, metaopt):
  pixels = network is SMALL_RESNET
  spec, batch_of = (PICTURES, pictures) if pixels else (small.SPEC, small.trajectory)
  agent = small.agent(metaopt, network=network, heads=heads)

  def learned(device):
    with jax.default_device(device):
      learner = Learner(Functions(agent, spec, 100), [device], 4, 5)
      state = small.first_state(learner, batch_of(0))
      for seed in range(3):
        state, metrics = learner.update(state, learner.put(batch_of(seed)))
      assert metrics["failure"] < 0
      return jax.device_get((state.params, state.opt_state, state.meta_state))

  cpu, accelerator = map(learned, devices)
  close(accelerator, cpu)


def test_many_runs_equal_those_of_the_cpu(devices):
  agent = small.Agent(network=TileCoding(), metaopt=AcLambda(Metatrace()))
  alphas = {"ac_lambda.alpha": [2.0**-k for k in range(5, 15)]}

  def states(device):
    with jax.default_device(device):
      runs = Runs(Members(agent, range(10), alphas), MountainCar(max_steps=11), [device])
      states, ends = runs.advance(runs.init(), 2)
      return jax.device_get((states.learner.params, states.env_steps, ends.ended))

  cpu, accelerator = map(states, devices)
  close(accelerator, cpu)


def test_what_the_platform_chooses(devices):
  cpu, accelerator = devices
  loaded = config.load("experiments/atari_stac").root
  assert single.micro_batch(loaded, [cpu]) == 1
  assert single.micro_batch(loaded, [accelerator]) is None
  assert not _layers.for_cpu()
  agent = small.Agent(network=TileCoding(), metaopt=AcLambda(Metatrace()))
  members = Members(agent, range(70), {})
  assert Runs(members, MountainCar(), [cpu])._chunk == 24  # of three, the last with copies
  made = Runs(members, MountainCar(), [accelerator], native=True)
  assert made._chunk == 70 and made.form == ""  # no machine code


def test_a_run_trains_on_the_accelerator(tmp_path):
  bindings = ["runs.repeats = 3", "runs.settings = {}", "runs.episodes = 2"]
  progress = training.train("experiments/metatrace_mountain_car", bindings, tmp_path / "run")
  assert progress.done and progress.episodes.finished == 6
  assert list(jsonl.read(tmp_path / "run" / "metrics.jsonl"))

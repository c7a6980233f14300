"""Every test runs on two simulated CPU devices, with rank promotion an error."""

import os
import signal

import fakes
import jax
import pytest

from selftune.plugins.envs import _pool

flags = [os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=2"]
flags.append("--xla_backend_optimization_level=0")  # programs run once or twice: half the CPU time
if jax.__version_info__ < (0, 11):
  flags.append("--xla_cpu_use_fusion_emitters=false")  # a third less compilation
os.environ["XLA_FLAGS"] = " ".join(flags)  # read when JAX first looks for devices
os.environ.setdefault("WANDB_MODE", "offline")

# Under nohup it is ignored, and would be in the commands that tests start, which then leave it so.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

_pool.preload_egl()  # tests import EnvPool by themselves, before any plugin does

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory):
  """The runs of a module share their compiled programs."""
  with fakes.compiled_once(tmp_path_factory.mktemp("compiled")):
    yield


@pytest.fixture
def config(tmp_path, monkeypatch):
  """The gin file of a quick run with the plugins of `fakes`."""
  yield fakes.configuration(tmp_path, monkeypatch)
  fakes.release.set()

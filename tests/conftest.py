"""Every test runs on two simulated CPU devices, with rank promotion an error."""

import os

import jax

from selftune.plugins.envs import _pool

flags = [os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=2"]
if jax.__version_info__ < (0, 11):
  flags.append("--xla_cpu_use_fusion_emitters=false")  # a third less compilation
os.environ["XLA_FLAGS"] = " ".join(flags)  # read when JAX first looks for devices
os.environ.setdefault("WANDB_MODE", "offline")

_pool.preload_egl()  # tests import EnvPool by themselves, before any plugin does

jax.config.update("jax_numpy_rank_promotion", "raise")

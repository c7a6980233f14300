"""Every test runs on two simulated CPU devices, with rank promotion an error."""

import os

os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
)
os.environ.setdefault("WANDB_MODE", "offline")

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")

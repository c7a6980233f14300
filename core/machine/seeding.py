"""Seeds of environments."""

from collections.abc import Container

import numpy as np


def env_seeds(run_seed: int, restart: int, pool: int, num_envs: int) -> tuple[int, ...]:
  """One seed an environment, for pool `pool` of the `restart`-th start of run `run_seed`.

  SeedSequence mixes the three numbers, so neighbouring runs, restarts and pools get unrelated
  seeds. (EnvPool's own rule, seed s + i for environment i, makes runs with consecutive seeds share
  nearly all of their environments.)

  Returns:
    `num_envs` integers in [0, 2**31), what EnvPool accepts.

  Raises:
    ValueError: `run_seed` is negative.
  """
  words = np.random.SeedSequence(run_seed, spawn_key=(restart, pool)).generate_state(num_envs)
  return tuple(int(word) >> 1 for word in words)


def evaluation_seeds(seed: int, num_envs: int, trained: Container[int]) -> tuple[int, ...]:
  """One seed an environment of an evaluation: different ones, and none of those `trained` in.

  Raises:
    ValueError: `seed` is negative.
  """
  # One number, where training has two: another stream even if `seed` is the run's own.
  generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
  seeds: dict[int, None] = {}
  while len(seeds) < num_envs:
    candidate = int(generator.integers(2**31))
    if candidate not in trained:
      seeds[candidate] = None
  return tuple(seeds)

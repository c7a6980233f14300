"""Seeding: the seeds of environments, for training and for evaluation."""

from collections.abc import Container

import numpy as np


def env_seeds(run_seed: int, restart: int, pool: int, num_envs: int) -> tuple[int, ...]:
  """Draws one seed an environment, for a pool of one start of a run.

  SeedSequence mixes the three numbers, so neighbouring runs, restarts and pools get unrelated
  seeds. (EnvPool's own rule, seed s + i for environment i, makes runs with consecutive seeds share
  nearly all of their environments.)

  Args:
    run_seed: of the run.
    restart: how many starts of the run came before this one.
    pool: number of the pool among those of the run.
    num_envs: of the pool.

  Returns:
    `num_envs` integers in [0, 2**31), what EnvPool accepts.

  Raises:
    ValueError: `run_seed` is negative.
  """
  # Restarts count too: environments begin anew, and must not repeat what was seen.
  words = np.random.SeedSequence(run_seed, spawn_key=(restart, pool)).generate_state(num_envs)
  return tuple(int(word) >> 1 for word in words)  # 31 of 32 bits: EnvPool's seeds are signed


def evaluation_seeds(seed: int, num_envs: int, trained: Container[int]) -> tuple[int, ...]:
  """Draws one seed an environment of an evaluation: different ones, none of those `trained` in.

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

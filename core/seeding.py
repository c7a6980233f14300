"""Seeds of environments."""

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

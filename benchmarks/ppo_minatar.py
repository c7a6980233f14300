"""Learning curves of purejaxrl's PPO on MinAtar, to hold those of IMPALA and STAC against.

  python benchmarks/ppo_minatar.py --source purejaxrl --out ppo.csv [--games Breakout ...]

`--source` is a checkout of https://github.com/luchris429/purejaxrl whose wrappers know the gymnax
that is installed. Its PPO as it is, two towers 64-64: 64 environments x 128 steps, 4 epochs of 8
minibatches, Adam at 5e-4 decayed to 0, gamma 0.99, lambda 0.95, clipping at 0.2, entropy cost 0.01.
All seeds of a game are one program. Rows are appended; games that are there are not run again.
"""

import argparse
import csv
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

ROWS = 20  # of a run
CONFIG = {
  "LR": 5e-4,
  "NUM_ENVS": 64,
  "NUM_STEPS": 128,
  "UPDATE_EPOCHS": 4,
  "NUM_MINIBATCHES": 8,
  "GAMMA": 0.99,
  "GAE_LAMBDA": 0.95,
  "CLIP_EPS": 0.2,
  "ENT_COEF": 0.01,
  "VF_COEF": 0.5,
  "MAX_GRAD_NORM": 0.5,
  "ACTIVATION": "tanh",
  "ANNEAL_LR": True,
  "DEBUG": False,
}


def curves(make_train, game: str, env_steps: int, seeds: int):
  """Returns the sum of episodes' returns, and how many ended, by update: [seeds, updates] each."""
  train = make_train(CONFIG | {"ENV_NAME": f"{game}-MinAtar", "TOTAL_TIMESTEPS": env_steps})

  def run(key):
    metrics = train(key)["metrics"]  # [updates, steps, environments]
    ended = metrics["returned_episode"]
    returns = jnp.where(ended, metrics["returned_episode_returns"], 0)
    return jnp.sum(returns, (1, 2)), jnp.sum(ended, (1, 2))

  keys = jax.vmap(jax.random.PRNGKey)(jnp.arange(seeds))
  return map(np.asarray, jax.jit(jax.vmap(run))(keys))


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--source", type=Path, required=True)
  parser.add_argument("--out", type=Path, required=True)
  parser.add_argument(
    "--games", nargs="+", default=["Breakout", "SpaceInvaders", "Asterix", "Freeway"]
  )
  parser.add_argument("--seeds", type=int, default=5)
  parser.add_argument("--env-steps", type=int, default=10_000_000)
  args = parser.parse_args()
  sys.path.insert(0, str(args.source / "purejaxrl"))
  from ppo import make_train

  done = set()
  if args.out.exists():
    with args.out.open(encoding="utf-8") as file:
      done = {row["environment"] for row in csv.DictReader(file)}
  else:
    args.out.write_text("environment,agent,seed,env_steps,mean_return,episodes\n", "utf-8")
  for game in args.games:
    if game in done:
      continue
    began = time.perf_counter()
    returns, episodes = curves(make_train, game, args.env_steps, args.seeds)
    parts = np.array_split(np.arange(returns.shape[1]), ROWS)
    with args.out.open("a", encoding="utf-8") as file:
      for seed in range(args.seeds):
        for part in parts:
          made = (part[-1] + 1) * CONFIG["NUM_ENVS"] * CONFIG["NUM_STEPS"]
          total, count = returns[seed, part].sum(), episodes[seed, part].sum()
          file.write(f"{game},PPO,{seed},{made},{total / max(count, 1):.3f},{count}\n")
    print(f"{game}: {time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
  main()

"""Env steps per second of agents in environments on the device, and of the parts of that.

  python benchmarks/on_device.py [--env "gymnax.name = 'Asterix-MinAtar'"] [--seconds 5]
  python benchmarks/on_device.py --runs 1 8 64 --envs 64 512 2048

For each number of runs and of environments a run: the environment alone, with random actions; the
same with the network acting; and training with IMPALA, STAC and STACX, all of it as one program on
every device. A rate is the best of the turns that fit in `--seconds`, after one that compiles.
"""

import argparse
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from selftune.core import config
from selftune.core.agent.functions import Functions
from selftune.core.api.types import Array
from selftune.core.engine.environments import functional
from selftune.core.experiment import Train
from selftune.core.machine import platform
from selftune.core.runs import independent
from selftune.core.runs.iteration import act, actor_params

AGENTS = ("impala", "stac", "stacx")
ITERATIONS = 10  # of a turn


def best(turn: Callable[[], None], env_steps: int, seconds: float) -> float:
  """Env steps per second of the fastest turn."""
  turn()  # compiles
  fastest, end = float("inf"), time.perf_counter() + seconds
  while (start := time.perf_counter()) < end:
    turn()
    fastest = min(fastest, time.perf_counter() - start)
  return env_steps / fastest


def acting(experiment: Train, network: bool) -> Callable[[], None]:
  """A turn of stepping alone, on one device: actions of the network, or at random."""
  env = functional(experiment.env)
  fns = Functions(experiment.agent, env.spec, experiment.total_updates)
  states = independent.make_runs(experiment, experiment.runtime, jax.devices()[:1]).init()

  def one_run(state):
    actor = actor_params(fns, state)

    def step(state, t):
      if network:
        sample, _, core_state = act(fns, actor, state, t)
      else:
        params = jnp.zeros((experiment.num_envs, fns.distribution.size))
        sample = fns.distribution.sample(jax.random.fold_in(state.key, t), params)
        core_state = state.core_state
      env_state, timestep = jax.vmap(env.step)(state.env, fns.distribution.to_action(sample))
      state = state._replace(env=env_state, timestep=timestep, core_state=core_state)
      return state, jnp.sum(timestep.reward)

    return jax.lax.scan(step, state, jnp.arange(ITERATIONS * experiment.unroll_length))

  go: Callable[..., tuple[Array, Array]] = jax.jit(jax.vmap(one_run))
  return lambda: jax.block_until_ready(go(states)[1])


def training(experiment: Train) -> Callable[[], None]:
  """A turn of training, on every device."""
  runs = independent.make_runs(experiment, experiment.runtime, jax.devices())
  state = runs.init()

  def turn() -> None:
    nonlocal state
    state, _ = jax.block_until_ready(runs.advance(state, ITERATIONS))

  return turn


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument("--experiment", default="minatar", help="minatar, snake or brax")
  parser.add_argument("--env", action="append", default=[], help="bindings, of the environment say")
  parser.add_argument("--runs", type=int, nargs="+", default=[1, 8])
  parser.add_argument("--envs", type=int, nargs="+", default=[64, 512])
  parser.add_argument("--agents", nargs="*", default=AGENTS)
  parser.add_argument("--seconds", type=float, default=5.0)
  arguments = parser.parse_args()
  platform.prepare(None, ())
  columns = ("environment", "acting", *arguments.agents)
  print(f"| runs | envs | {' | '.join(columns)} |\n|{'--:|' * (2 + len(columns))}")
  for runs in arguments.runs:
    for envs in arguments.envs:
      rates = []
      for column in columns:
        agent = column if column in arguments.agents else "impala"
        # STACX is STAC with more heads, and not every experiment has a file for it.
        name = f"experiments/{arguments.experiment}_{agent.removesuffix('x')}"
        bindings = (f"train.num_envs = {envs}", f"runs.repeats = {runs}", *arguments.env)
        heads = ("agent.heads = 3",) if agent == "stacx" else ()
        experiment: Train = config.load(name, (*bindings, *heads)).root
        turn = (
          acting(experiment, network=column == "acting")
          if column in columns[:2]
          else training(experiment)
        )
        env_steps = ITERATIONS * experiment.unroll_length * envs * runs
        rates.append(f"{best(turn, env_steps, arguments.seconds):,.0f}")
      print(f"| {runs} | {envs} | {' | '.join(rates)} |", flush=True)


if __name__ == "__main__":
  main()

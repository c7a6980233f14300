"""Env steps per second of agents in environments on the device, and of the parts of that.

  python benchmarks/on_device.py [--bind "gymnax.name = 'Asterix-MinAtar'"] [--seconds 5]
  python benchmarks/on_device.py --runs 1 8 64 --envs 64 512 2048 --columns impala stac
  python benchmarks/on_device.py --experiment snake --columns stac outer_critic

For each number of runs and of environments a run: the environment alone, with random actions; the
same with the network acting; and training with IMPALA, STAC and STACX, all of it as one program on
every device. A rate is the best of the turns that fit in `--seconds`, after one that compiles. It
is told as soon as it is measured; where there is too little memory for one, the others follow.
"""

import argparse
import functools
import itertools
import time
from collections.abc import Callable, Sequence

import cells
import jax
import jax.numpy as jnp
from cells import Cell

from selftune.core import config
from selftune.core.agent.functions import Functions
from selftune.core.api.types import Array
from selftune.core.engine.environments import functional
from selftune.core.experiment import Train
from selftune.core.machine import platform
from selftune.core.runs import independent
from selftune.core.runs.iteration import act, actor_params

PARTS = ("environment", "acting")  # of what an agent does
ITERATIONS = 10  # of a turn


def fastest(turn: Callable[[], None], seconds: float) -> float:
  """Seconds of the fastest turn of those that fit in so many."""
  found, end = float("inf"), time.perf_counter() + seconds
  while (start := time.perf_counter()) < end:
    turn()
    found = min(found, time.perf_counter() - start)
  return found


def acting(experiment: Train, network: bool) -> Callable[[], None]:
  """A turn of stepping alone, on one device: actions of the network, or at random."""
  env = functional(experiment.env)
  fns = Functions(experiment.agent, env.spec, experiment.total_updates)
  states = independent.make_runs(experiment, experiment.runtime, jax.devices()[:1]).init()

  def one_run(state):
    actor = actor_params(fns, state.learner)

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


def measure(experiment: Train, column: str, seconds: float) -> Cell:
  """Env steps per second of a column, and when the turns were made that say so."""
  turn = acting(experiment, network=column == "acting") if column in PARTS else training(experiment)
  turn()  # compiles
  began, runs = time.time(), experiment.runtime.size
  env_steps = ITERATIONS * experiment.unroll_length * experiment.num_envs * runs
  rate = env_steps / fastest(turn, seconds)
  return {"env_steps_per_second": rate, "window": (began, time.time())}


def load(experiment: str, column: str, bindings: Sequence[str]) -> Train:
  """What a column trains, or takes a part of."""
  # STACX is STAC with more heads, and not every experiment has a file for it.
  agent = "impala" if column in PARTS else column.removesuffix("x")
  heads = ("agent.heads = 3",) if column == "stacx" else ()
  return config.load(f"experiments/{experiment}_{agent}", (*bindings, *heads)).root


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument("--experiment", default="minatar", help="minatar, snake or brax")
  parser.add_argument("--bind", action="append", default=[], help="a gin binding")
  parser.add_argument("--runs", type=int, nargs="+", default=[1, 8])
  parser.add_argument("--envs", type=int, nargs="+", default=[64, 512])
  parser.add_argument("--columns", nargs="+", default=(*PARTS, "impala", "stac", "stacx"))
  parser.add_argument("--seconds", type=float, default=5.0)
  cells.add_option(parser)
  arguments = parser.parse_args()
  platform.prepare(None, ())
  columns = arguments.columns
  print(f"| runs | envs | {' | '.join(columns)} |\n|{'--:|' * (2 + len(columns))}")
  for runs, envs in itertools.product(arguments.runs, arguments.envs):
    print(f"| {runs} | {envs} |", end="", flush=True)
    for column in columns:
      sizes = (f"train.num_envs = {envs}", f"runs.repeats = {runs}")
      experiment = load(arguments.experiment, column, (*sizes, *arguments.bind))
      found = cells.attempt(functools.partial(measure, experiment, column, arguments.seconds))
      cells.tell(arguments.json, runs=runs, envs=envs, what=column, **found)
      rate = found.get("env_steps_per_second")
      print(f" {found['error'] if rate is None else f'{rate:,.0f}'} |", end="", flush=True)
    print()


if __name__ == "__main__":
  main()

"""What `gpu.py` measures: processes, their arguments and time limits."""

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Part(NamedTuple):
  """A process that measures something."""

  name: str
  seconds: float  # that it may take
  command: Sequence[str]  # {cells} is the file that it appends its cells to
  variables: Mapping[str, str] = {}
  against: str = ""  # the part with whose cells its own are compared


class Sizes(NamedTuple):
  """How much is measured; the first of several is what `flags` and `choices` are compared at."""

  batches: str  # trajectories of an update on Atari
  runs: str  # of programs that hold their environment,
  envs: str  # each with so many
  counts: str  # runs of Metatrace,
  steps: str  # and run-steps of a turn
  snakes: str  # environments
  turns: str
  seconds: str
  micro_batch: int
  chunk: int
  patience: float  # factor of time limits
  atari: tuple[str, ...] = ()  # bindings


FULL = Sizes(
  batches="128 32 512",
  runs="1 16 256",
  envs="64 512 4096",
  counts="480 2000 10000 100000",
  steps="500000",
  snakes="512",
  turns="5",
  seconds="1",
  micro_batch=4,
  chunk=32,
  patience=1.0,
)
SMALL = Sizes(
  batches="2 4",
  runs="1 2",
  envs="2 4",
  counts="4 40",
  steps="1000",
  snakes="2",
  turns="1",
  seconds="0.1",
  micro_batch=1,
  chunk=1,
  patience=10.0,
  atari=("impala_resnet.channels = (4,)", "train.unroll_length = 2"),
)


def parts(size: Sizes) -> list[Part]:
  """All parts, the most wanted first: the last are not begun when the time is over."""
  batch, run, env = (x.split()[0] for x in (size.batches, size.runs, size.envs))

  def part(name: str, seconds: float, text: str, *bindings: str, against="", **variables) -> Part:
    """A part by its command, a benchmark of this folder, and bindings."""
    words = ("python", *f"benchmarks/{text} --json {{cells}}".split())
    bound = (word for binding in bindings for word in ("--bind", binding))
    return Part(name, size.patience * seconds, (*words, *bound), variables, against)

  def learner(name: str, batches: str, *bindings: str, agent="stac", **fields) -> Part:
    text = f"learner.py --turns {size.turns} --agents atari_{agent} --envs {batches}"
    return part(name, 50, text, *size.atari, *bindings, **fields)

  def programs(name: str, seconds: float, text: str, *bindings: str, **fields) -> Part:
    text = f"on_device.py --seconds {size.seconds} {text}"
    return part(name, seconds, text, *bindings, **fields)

  def flags(name: str, flag: str) -> Part:
    given = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    text = f"--columns stac --runs {run} --envs {env}"
    return programs(f"flags/{name}", 40, text, against="minatar", XLA_FLAGS=given)

  def choice(name: str, *bindings: str, **variables) -> Part:
    name = f"choices/{name}"
    return learner(name, batch, *bindings, against="learner/stac", **variables)

  whole = f"end_to_end.py --one parts --updates {size.turns} --config experiments/atari_"
  smaller = (*size.atari, f"train.num_envs = {batch}") if size.atari else ()
  snake = f"--experiment snake --runs 1 --envs {size.snakes} --columns"
  tests = "python -m pytest -n 0 -m gpu tests/test_gpu.py".split()
  return [
    learner("learner/stac", size.batches),
    learner("learner/impala", size.batches, agent="impala"),
    programs("minatar", 90, f"--columns stac impala --runs {size.runs} --envs {size.envs}"),
    Part("tests", size.patience * 60, tests),
    part("end_to_end/impala", 50, f"{whole}impala", *smaller),
    part("end_to_end/stac", 50, f"{whole}stac", *smaller),
    part("metatrace", 50, f"metatrace.py --jax --steps {size.steps} --counts {size.counts}"),
    learner("learner/stacx", size.batches, agent="stacx"),
    programs("snake/critic", 50, f"{snake} stac outer_critic"),
    programs(
      "snake/no critic",
      30,
      f"{snake} outer_critic",
      "outer.critic = 'none'",
      against="snake/critic",
    ),
    flags("graphs of one", "--xla_gpu_graph_min_graph_size=1"),
    flags("loops", "--xla_gpu_graph_min_graph_size=1 --xla_gpu_enable_command_buffer=+WHILE"),
    choice("micro-batches", f"train.micro_batch = {size.micro_batch}"),
    choice("own convolutions", SELFTUNE_CONVOLUTION="own"),
    choice("XLA's pooling", "impala_resnet.pooling = 'xla'"),
    choice("bfloat16", "impala_resnet.compute_dtype = 'bfloat16'"),
    programs(
      "choices/chunks",
      40,
      f"--columns impala --runs {size.runs.split()[-1]} --envs {env}",
      f"runs.chunk = {size.chunk}",
      against="minatar",
    ),
  ]

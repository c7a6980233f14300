"""Figure 3 of STAC: DM Control from features and from pixels, and the Real-World RL challenge."""

import functools
import itertools
from typing import NamedTuple

import numpy as np

from ....core.api import Cell, Cost, Figure, bound
from . import scores
from .variants import VARIANTS

AGENTS = ("stac", "stacx", "impala_aux", "impala")
SEEDS = (0, 1, 2)
ENV_STEPS = 30_000_000
# Of the quick forms: few environments, and windows that still overlap, as the suites' do.
SMALL = (
  "train.num_envs = 4",
  "train.unroll_length = 20",
  "train.overlap = 10",
  "train.log_seconds = 0.1",
)
EPISODE = ("train.total_env_steps = 4400",)  # each environment ends one of 1000 steps
TINY_MLP = ("mlp.hidden = (16,)", "mlp.lstm = 16")
DM_CONTROL = (  # dm_control's `BENCHMARKING`; the text of the paper does not name its tasks
  "acrobot swingup",
  "acrobot swingup_sparse",
  "ball_in_cup catch",
  "cartpole balance",
  "cartpole balance_sparse",
  "cartpole swingup",
  "cartpole swingup_sparse",
  "cheetah run",
  "finger spin",
  "finger turn_easy",
  "finger turn_hard",
  "fish upright",
  "fish swim",
  "hopper stand",
  "hopper hop",
  "humanoid stand",
  "humanoid walk",
  "humanoid run",
  "manipulator bring_ball",
  "pendulum swingup",
  "point_mass easy",
  "reacher easy",
  "reacher hard",
  "swimmer swimmer6",
  "swimmer swimmer15",
  "walker stand",
  "walker walk",
  "walker run",
)
RWRL = tuple(
  f"{domain} {level}"
  for domain in ("cartpole", "walker", "quadruped", "humanoid")
  for level in ("easy", "medium", "hard")
)


class Suite(NamedTuple):
  """A panel of Figure 3."""

  about: str
  experiments: str  # how the names of its four experiments begin
  fields: tuple[str, str]  # what the two words of a task are bound to
  tasks: tuple[str, ...]
  quick: tuple[str, tuple[str, ...]]  # task, bindings
  time: str
  said: str


SUITES = {
  "features": Suite(
    "DM Control from features: learning curves of the four agents",
    "control_features",
    ("dm_control.domain", "dm_control.task"),
    DM_CONTROL,
    ("cartpole swingup", (*SMALL, *EPISODE, *TINY_MLP)),
    "the paper: 30 to 37 min a run; one CPU core took 7 to 30 min for each 1M (cartpole)",
    "self-tuning improves the mean from 217 to 389; STACX below STAC, auxiliary tasks no help.",
  ),
  "pixels": Suite(
    "DM Control from pixels: learning curves of the four agents",
    "control_pixels",
    ("dm_control.domain", "dm_control.task"),
    DM_CONTROL,
    (
      "cartpole swingup",
      (
        *SMALL,
        *EPISODE,
        "impala_resnet.channels = (4, 4)",
        "impala_resnet.lstm = 16",
        "dm_control.height = 16",
        "dm_control.width = 16",
      ),
    ),
    "the paper: 93 to 97 min a run; not yet measured",
    "self-tuning improves the mean from 108 to 202; auxiliary tasks improve it as well.",
  ),
  "rwrl": Suite(
    "Real-World RL challenge: learning curves of the four agents",
    "rwrl",
    ("rwrl.domain", "rwrl.level"),
    RWRL,
    ("cartpole easy", (*SMALL, *EPISODE, *TINY_MLP, "rwrl.num_workers = 1")),
    "the paper: 44 to 56 min a run; not yet measured",
    "self-tuning improves the mean from 195 to 295; STAC solves quadruped easy and cartpole easy.",
  ),
}


def cell(key: str, agent: str, task: str, seed: int) -> Cell:
  """Returns the run of an agent on a task of a suite."""
  # A task is two words, one for each of the suite's fields: a domain, and a task or a level.
  suite, variant, words = SUITES[key], VARIANTS[agent], task.split()
  chosen = (f"{field} = {word!r}" for field, word in zip(suite.fields, words, strict=True))
  return Cell(
    "_".join((key, agent, *words, f"seed{seed}")),
    {"agent": agent, "task": task, "seed": seed},
    f"experiments/{suite.experiments}_{variant.agent}",
    (*variant.bindings, *chosen, f"train.seed = {seed}"),
  )


# Returns of both suites lie in [0, 1000] by themselves, so they are averaged as they are.
SCALE = scores.Scale("mean return", lambda task, returns: returns, np.mean, {})


def figure(key: str) -> Figure:
  """Returns the panel of a suite as a figure."""
  suite = SUITES[key]
  cells = tuple(cell(key, *point) for point in itertools.product(AGENTS, suite.tasks, SEEDS))
  task, bindings = suite.quick
  return Figure(
    suite.about,
    Cost(len(cells), ENV_STEPS, suite.time, "GPU" if key == "pixels" else "CPU"),
    cells,
    bound((cell(key, agent, task, 0) for agent in AGENTS), bindings),
    functools.partial(scores.draw, SCALE),
    functools.partial(scores.claims, SCALE, suite.said),
    functools.partial(scores.table, SCALE),
  )

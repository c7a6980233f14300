"""STAC on Atari, seeds 0 to 2: Figures 2 and 4c, and the results of sections 4.3, 9.3 and 9.5."""

import functools
import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from ....core.api import Cell, Cost, Figure, Result, bound
from ...envs._atari57 import games
from . import scores
from .variants import INITS, VARIANTS, name

SEEDS = (0, 1, 2)
ENV_STEPS = 50_000_000  # 200M frames
TIME = "the paper: 70 to 84 min a run, 8 TPU cores; two CPU cores: 5 to 10 days by measured speed"
# The paper's text names the first two of its five; the others are a choice of ours.
FIVE = ("jamesbond", "chopper_command", "breakout", "seaquest", "space_invaders")
QUICK = (  # 18 s of CPU time a cell, most of it compilation
  "impala_resnet.channels = (4, 4)",
  "train.runtime = @lockstep()",
  "train.num_envs = 4",
  "train.unroll_length = 10",
  "train.total_env_steps = 400",
  "train.log_seconds = 0.1",
  "atari.max_episode_steps = 40",
)


class Grid(NamedTuple):
  """A grid: the agents of a figure, and what the paper says of them."""

  about: str
  agents: tuple[str, ...]
  said: str
  tasks: tuple[str, ...] | None = None  # None for all 57 games


GRIDS = {
  "fig2a": Grid(
    "Atari: learning curves of STACX, STAC, and IMPALA with and without auxiliary tasks",
    ("stacx", "stac", "impala_aux", "impala"),
    "self-tuning improves the score with and without auxiliary tasks, and they improve it with "
    "and without self-tuning; from 243% to 364%.",
  ),
  "fig2b": Grid(
    "Atari: the score by the set of metaparameters that are tuned",
    (
      # What is tuned gets less: all, without alpha, gamma and lambda, gamma, nothing. First with
      # three heads, then with one.
      *(f"stacx{tuned}" for tuned in ("", "_no_alpha", "_gamma_lambda", "_gamma")),
      "impala_aux",
      *(f"stac{tuned}" for tuned in ("", "_no_alpha", "_gamma_lambda", "_gamma")),
      "impala",
    ),
    "the more metaparameters STAC and STACX tune, the better.",
  ),
  "fig4c": Grid(
    "Atari: where metaparameters start, all (top of the figure) or the discount (bottom)",
    (
      "stacx",
      *(f"stacx_init_{name(value)}" for value in INITS),
      *(f"stacx_init_gamma_{name(value)}" for value in INITS),
    ),
    "the score does not change too much. Its five games were drawn at random; the text names two.",
    FIVE,
  ),
  "alpha": Grid(
    "Atari, section 4.3: α of ρ and c tuned apart; a truncation level tuned as well",
    ("stacx", "stacx_split_alpha", "stacx_truncation"),
    "apart slightly worse than STACX, a tuned truncation level worse; α_ρ >= α_c 91.2% of the "
    "time, α_ρ >= 0.99 α_c 99.2%.",
  ),
  "heads": Grid(
    "Atari, section 9.3: one head (STAC), 2, 3 (STACX), 5 and 8",
    ("stac", "stacx_2_heads", "stacx", "stacx_5_heads", "stacx_8_heads"),
    "2, 5 and 8 heads are better than one and slightly worse than 3.",
  ),
  "behaviour": Grid(
    "Atari, section 9.3: who acts, the first head (STACX), a random one, or all on average",
    ("stacx", "stacx_random_head", "stacx_average_heads"),
    "the others led to a small decrease in performance.",
  ),
  "kl": Grid(
    "Atari, section 9.3: the weight of the outer KL, 0, 0.3, 1 (STACX) and 2",
    ("stacx_kl_0", "stacx_kl_03", "stacx", "stacx_kl_2"),
    "the weight affects the score, but not significantly; 1 seemed to perform the best.",
  ),
  "embedding": Grid(
    "Atari, section 9.5: the discount embedded; Xu et al. 2018",
    (
      "stac_gamma_lambda",
      "stac_gamma_lambda_embedding",
      "xu2018",
      "stacx",
      "stacx_embedding",
      "stacx_embedding_per_head",
    ),
    "an embedded discount helps where γ and λ are tuned, and does not help STACX.",
  ),
}


def cell(agent: str, game: str, seed: int) -> Cell:
  """Returns the run of an agent in a game; figures that share it train it once."""
  variant = VARIANTS[agent]
  bindings = (*variant.bindings, f"atari.game = {game!r}", f"train.seed = {seed}")
  # The name has no figure in it, so that figures find each other's cells.
  columns = {"agent": agent, "task": game, "seed": seed}
  return Cell(f"{agent}_{game}_seed{seed}", columns, f"experiments/atari_{variant.agent}", bindings)


def grid(agents: Iterable[str], tasks: Iterable[str], seeds: Iterable[int]) -> tuple[Cell, ...]:
  """Returns the cells of every agent, game and seed."""
  return tuple(cell(*point) for point in itertools.product(agents, tasks, seeds))


def score(game: str, returns: Any) -> Any:
  """Normalises returns, a number or [...], to percent: 0 is random play, 100 the human tester."""
  it = games()[game]
  return 100 * (returns - it.random_score) / (it.human_score - it.random_score)


# The paper's aggregate: the median over games of human-normalised scores.
SCALE = scores.Scale(
  "median human-normalised score in %",
  score,
  np.median,
  {name: variant.score for name, variant in VARIANTS.items() if variant.score is not None},
)


def figure(key: str) -> Figure:
  """Returns the figure of a grid."""
  it = GRIDS[key]
  cells = grid(it.agents, games() if it.tasks is None else it.tasks, SEEDS)
  # Only there are alpha_rho and alpha_c tuned apart.
  ordered = claim_order if key == "alpha" else scores.claims
  return Figure(
    it.about,
    Cost(len(cells), ENV_STEPS, TIME, "GPU"),
    cells,
    bound(grid(it.agents, ("breakout",), (0,)), QUICK),
    functools.partial(scores.draw, SCALE),
    functools.partial(ordered, SCALE, it.said),
    functools.partial(scores.table, SCALE),
  )


def claim_order(scale: scores.Scale, said: str, results: list[Result]) -> list[str]:
  """Says the scores, and how often the head that acts has α_ρ >= α_c where they are tuned apart."""
  # Head 0 acts; all logged rows of all runs count alike.
  apart = [r.metrics for r in results if r.cell.columns["agent"] == "stacx_split_alpha"]
  rho, c = (
    np.concatenate([m[f"tuned/leaky_vtrace.alpha_{of}/0"] for m in apart]) for of in ("rho", "c")
  )
  return [
    *scores.claims(scale, said, results),
    f"here: α_ρ >= α_c {100 * np.mean(rho >= c):.1f}% of the time, "
    f"α_ρ >= 0.99 α_c {100 * np.mean(rho >= 0.99 * c):.1f}%",
  ]

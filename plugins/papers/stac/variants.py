"""Variants of the agents of the STAC paper: packaged experiments, with bindings on top."""

import math
from typing import NamedTuple

GAMMA, LAMBDA = "leaky_vtrace.gamma", "leaky_vtrace.lambda_"
INITS = (0.992, 0.995, 0.997, 0.999)  # of Figure 4c, beside the default of 0.99


class Variant(NamedTuple):
  """An agent of the paper."""

  title: str
  agent: str  # of experiments/atari_<agent> and of the control suites
  bindings: tuple[str, ...] = ()
  score: float | None = None  # median human-normalised, in percent, where the paper's text has it


def tune(*patterns: str) -> tuple[str, ...]:
  """Returns the binding that tunes what matches these patterns."""
  return (f"metagradient.tune = {patterns!r}",)


def embedded(kind: str) -> str:
  """Returns the binding that embeds the discount: 'shared' or 'per_head'."""
  return f"impala_resnet.gamma_embedding = {kind!r}"


def eta(value: float) -> float:
  """Returns the unconstrained number whose sigmoid is `value`."""
  return round(math.log(value / (1 - value)), 6)


def name(value: float) -> str:
  """Returns a number as names of cells have it: 0.992 is 0992."""
  return f"{value:g}".replace(".", "")


BOTH = tune(GAMMA, LAMBDA)
# '*.cost' are g_v, g_p and g_e: the KL's cost is of the outer loss alone, which nothing tunes.
WITHOUT_ALPHA = tune(GAMMA, LAMBDA, "*.cost")
VARIANTS = {
  "impala": Variant("IMPALA", "impala", score=243.0),
  "impala_aux": Variant("IMPALA, auxiliary tasks", "impala", ("agent.heads = 3",)),
  "stac": Variant("STAC", "stac"),
  "stacx": Variant("STACX", "stacx", score=364.0),
  "stac_gamma": Variant("STAC {γ}", "stac", tune(GAMMA), 240.0),
  "stac_gamma_lambda": Variant("STAC {γ, λ}", "stac", BOTH),
  "stac_no_alpha": Variant("STAC {γ, λ, g}", "stac", WITHOUT_ALPHA),
  "stacx_gamma": Variant("STACX {γ}", "stacx", tune(GAMMA)),
  "stacx_gamma_lambda": Variant("STACX {γ, λ}", "stacx", BOTH),
  "stacx_no_alpha": Variant("STACX {γ, λ, g}", "stacx", WITHOUT_ALPHA),
  "stacx_split_alpha": Variant(
    "STACX, α_ρ and α_c apart",
    "stacx",
    tune(GAMMA, LAMBDA, "leaky_vtrace.alpha_rho", "leaky_vtrace.alpha_c", "*.cost"),
    353.0,
  ),
  "stacx_truncation": Variant(
    "STACX, truncation tuned",
    "stacx",
    tune(GAMMA, LAMBDA, "leaky_vtrace.alpha", "leaky_vtrace.truncation", "*.cost"),
    301.0,
  ),
  "stac_gamma_lambda_embedding": Variant(
    "STAC {γ, λ}, γ embedded", "stac", (*BOTH, embedded("shared")), 280.6
  ),
  "xu2018": Variant(  # the score is Xu et al.'s own
    "Xu et al. 2018",
    "stac",
    (
      *BOTH,
      embedded("shared"),
      # Their outer loss is on the batch after the one that was learned from, and has no KL term.
      "metagradient.outer_batch = 'next'",
      "outer.losses = ()",
    ),
    287.7,
  ),
  "stacx_embedding": Variant("STACX, γ embedded", "stacx", (embedded("shared"),), 306.8),
  "stacx_embedding_per_head": Variant(
    "STACX, γ embedded per head", "stacx", (embedded("per_head"),), 307.7
  ),
  "stacx_random_head": Variant(
    "STACX, a random head acts", "stacx", ("agent.behaviour = 'random'",)
  ),
  "stacx_average_heads": Variant(
    "STACX, average logits act", "stacx", ("agent.behaviour = 'average'",)
  ),
}
# Each of these sweeps one number, of which the packaged value is `stacx` itself.
VARIANTS |= {
  f"stacx_{p}_heads": Variant(f"STACX, {p} heads", "stacx", (f"agent.heads = {p}",))
  for p in (2, 5, 8)
}
VARIANTS |= {
  f"stacx_kl_{name(cost)}": Variant(
    f"STACX, g_kl = {cost:g}", "stacx", (f"policy_kl.cost = {cost!r}",)
  )
  for cost in (0.0, 0.3, 2.0)
}
VARIANTS |= {
  f"stacx_init_{name(value)}": Variant(
    f"STACX, all from {value:g}", "stacx", (f"metagradient.eta_init = {eta(value)}",)
  )
  for value in INITS
}
VARIANTS |= {
  f"stacx_init_gamma_{name(value)}": Variant(
    f"STACX, γ from {value:g}",
    "stacx",
    (f"metagradient.eta_init_of = {{{GAMMA!r}: {eta(value)}}}",),
  )
  for value in INITS
}

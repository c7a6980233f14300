"""Every packaged experiment loads, takes the common bindings, and says what it is for."""

import pytest

from selftune.core import config, experiment
from selftune.core.api import tunables
from selftune.core.api.registry import name_of

EXPERIMENTS = config.experiments()
COMMON = ("train.seed = 7", "train.total_env_steps = 1000", "train.num_envs = 8")


def tuned(name):
  agent = config.load(f"experiments/{name}").root.agent
  selected = tunables.select(tunables.collect(agent.components), agent.metaopt.tune)
  return [key.removeprefix("leaky_vtrace.").removesuffix(".cost") for key in selected]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_load_and_take_the_common_bindings(name):
  game = ("atari.game = 'space_invaders'",) if "atari" in name else ()
  train = config.load(name, (*COMMON, *game)).root
  assert isinstance(train, experiment.Train)
  assert (train.seed, train.total_env_steps, train.num_envs) == (7, 1000, 8)
  assert not game or train.env.game == "space_invaders"
  assert (config.ROOT / f"{name}.gin").read_text().startswith("# ")


def test_the_four_agents_of_figure_2a():
  agents = {
    name: config.load(f"experiments/atari_{name}").root.agent
    for name in ("impala", "impala_aux", "stac", "stacx")
  }
  assert {name: agent.heads for name, agent in agents.items()} == {
    "impala": 1,
    "impala_aux": 3,
    "stac": 1,
    "stacx": 3,
  }
  assert {name_of(agent.metaopt) for agent in agents.values()} == {"fixed", "metagradient"}
  assert all(agent.objective.corrector.gamma == 0.995 for agent in agents.values())
  assert all(agent.max_abs_reward == 1.0 for agent in agents.values())


@pytest.mark.parametrize(
  "name, expected",
  [
    ("atari_stac", "gamma lambda_ alpha policy_gradient value entropy"),
    ("atari_stacx", "gamma lambda_ alpha policy_gradient value entropy"),
    ("atari_stac_gamma", "gamma"),
    ("atari_stacx_gamma_lambda", "gamma lambda_"),
    ("atari_stacx_no_alpha", "gamma lambda_ policy_gradient value entropy"),
    ("atari_stacx_split_alpha", "gamma lambda_ alpha_rho alpha_c policy_gradient value entropy"),
    ("atari_stacx_truncation", "gamma lambda_ alpha truncation policy_gradient value entropy"),
    ("atari_xu2018", "gamma lambda_"),
  ],
)
def test_what_the_variants_tune(name, expected):
  assert tuned(name) == expected.split()

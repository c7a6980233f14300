"""Every packaged experiment loads, takes the common bindings, and says what it is for.

The names of those that a paper's figure binds now are known, and say what to write.
"""

import json
import re
import shlex

import fakes
import jax
import pytest

from selftune.core import config, experiment
from selftune.core import train as training
from selftune.core.api import tunables
from selftune.core.api.errors import ConfigError
from selftune.core.api.registry import name_of
from selftune.core.config import reading
from selftune.plugins.papers.stac.variants import VARIANTS

EXPERIMENTS = config.experiments()
COMMON = ("train.seed = 7", "train.total_env_steps = 1000", "train.num_envs = 8")


def tuned(train):
  agent = train.agent
  selected = tunables.select(tunables.collect(agent.components), agent.metaopt.tune)
  return [key.removeprefix("leaky_vtrace.").removesuffix(".cost") for key in selected]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_load_and_take_the_common_bindings(name):
  fakes.skip_without_library(name)
  game = ("atari.game = 'space_invaders'",) if "atari" in name else ()
  train = config.load(name, (*COMMON, *game)).root
  assert isinstance(train, experiment.Train)
  assert (train.seed, train.total_env_steps, train.num_envs) == (7, 1000, 8)
  assert not game or train.env.game == "space_invaders"
  assert (config.ROOT / f"{name}.gin").read_text().startswith("# ")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_pass_what_training_checks_first(name):
  fakes.skip_without_library(name)
  with jax.numpy_rank_promotion("allow"):  # of libraries
    training.check(config.load(name).root)


ON_THE_DEVICE = [
  name
  for name in EXPERIMENTS
  if name.split("/")[1].startswith(("minatar", "snake", "brax", "playground", "craftax", "two"))
]


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_THE_DEVICE)
def test_agents_on_the_device_go_with_their_environments(name):
  fakes.skip_without_library(name)
  with jax.numpy_rank_promotion("allow"):  # of libraries
    training.rehearse(config.load(name).root)


def test_the_four_agents_of_figure_2a():
  agents = {
    name: config.load(f"experiments/atari_{variant.agent}", variant.bindings).root.agent
    for name, variant in VARIANTS.items()
    if name in ("impala", "impala_aux", "stac", "stacx")
  }
  assert {name: agent.heads for name, agent in agents.items()} == {
    "impala": 1,
    "impala_aux": 3,
    "stac": 1,
    "stacx": 3,
  }
  assert {name_of(agent.metaopt) for agent in agents.values()} == {"fixed", "metagradient"}
  assert all(agent.objective.corrector.gamma == 0.995 for agent in agents.values())
  assert all(agent.objective.max_abs_reward == 1.0 for agent in agents.values())


@pytest.mark.parametrize(
  "variant, expected",
  [
    ("stac", "gamma lambda_ alpha policy_gradient value entropy"),
    ("stacx", "gamma lambda_ alpha policy_gradient value entropy"),
    ("stac_gamma", "gamma"),
    ("stacx_gamma_lambda", "gamma lambda_"),
    ("stacx_no_alpha", "gamma lambda_ policy_gradient value entropy"),
    ("stacx_split_alpha", "gamma lambda_ alpha_rho alpha_c policy_gradient value entropy"),
    ("stacx_truncation", "gamma lambda_ alpha truncation policy_gradient value entropy"),
    ("xu2018", "gamma lambda_"),
  ],
)
def test_what_the_variants_tune(variant, expected):
  it = VARIANTS[variant]
  assert tuned(config.load(f"experiments/atari_{it.agent}", it.bindings).root) == expected.split()


NOW = json.loads(reading.RENAMED.read_text())
RENAMED = [name for name in NOW if name.startswith("experiments/")]


@pytest.mark.parametrize("old", RENAMED)
def test_an_experiment_that_became_bindings_says_which(old):
  """The message says to write what the paper's figures bind for the variant of that name."""
  name = old.removeprefix("experiments/")
  with pytest.raises(ConfigError, match=r"Write experiments/") as error:
    config.load(name)
  experiment, *words = shlex.split(str(error.value).partition("Write ")[2])
  assert set(words[::2]) == {"--bind"}
  suite = re.match("atari_|rwrl_|control_(features|pixels)_", name)[0]
  variant = VARIANTS[name.removeprefix(suite)]
  assert experiment == f"experiments/{suite}{variant.agent}"
  assert tuple(words[1::2]) == variant.bindings
  config.load(experiment, words[1::2])
  assert old not in EXPERIMENTS


def test_an_include_of_such_an_experiment_says_what_to_include(tmp_path):
  mine = tmp_path / "mine.gin"
  mine.write_text("include 'experiments/atari_stacx_kl_03.gin'\n")
  with pytest.raises(ConfigError) as error:
    config.load(mine)
  assert str(error.value).endswith(
    "Write include 'experiments/atari_stacx.gin', and below it: policy_kl.cost = 0.3"
  )


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_headers_give_a_command_and_what_was_measured(name):
  header = (config.ROOT / f"{name}.gin").read_text().partition("\ninclude")[0]
  assert f"selftune train {name}" in header
  assert "Measured:" in header or "ot yet measured" in header


@pytest.mark.parametrize("old", [name for name in NOW if name not in RENAMED])
def test_a_parameter_of_an_earlier_version_is_told_its_name_now(old):
  with pytest.raises(ConfigError, match=rf"It is {re.escape(NOW[old][0])} now") as error:
    config.load("cartpole_stac", [f"{old} = None"])
  component, field = NOW[old][0].split(".")
  assert field in config.fields(component) and old in str(error.value)

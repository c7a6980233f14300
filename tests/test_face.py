"""What `import selftune` offers and how light it is; a run in Python: tables, scores, policy."""

import ast
import concurrent.futures
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from dm_env import specs
from fakes import MOUNTAIN_CAR_RUNS, OPENED, Counting

import selftune
from selftune.core import api
from selftune.core.api.errors import UserError
from selftune.core.evaluation import evaluate
from selftune.core.evaluation import policy as policies
from selftune.core.record.workdir import Workdir

ROOT = Path(__file__).parents[1]
STRANGERS = [*(ROOT / "docs/examples").glob("*.py"), *(ROOT / "tests/third_party").rglob("*.py")]
OWN = {"Policy", "Run", "evaluate", "load", "train"}


def python(code, **options):
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **options)
  assert done.returncode == 0, done.stderr
  return done.stdout


def test_it_offers_what_a_plugin_may_import():
  assert set(selftune.__all__) == {*api.__all__, *OWN} and not OWN & set(api.__all__)
  for name in api.__all__:
    assert getattr(selftune, name) is getattr(api, name)
  assert set(selftune.__all__) <= set(dir(selftune))
  with pytest.raises(AttributeError, match="no attribute 'tunabel'"):
    selftune.tunabel  # noqa: B018


def test_importing_it_imports_nothing_heavy():
  python(
    "import sys, selftune\n"
    "assert 'train' in dir(selftune) and not hasattr(selftune, '__wrapped__')\n"
    "heavy = {'jax', 'numpy', 'gin', 'orbax', 'envpool', 'matplotlib', 'pandas', 'wandb'}\n"
    "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
  )


@pytest.mark.parametrize(
  "first",
  [
    "import my_corrector",
    *(
      pytest.param(x, marks=pytest.mark.slow) for x in ("import selftune.core.commands.cli", "pass")
    ),
  ],
)
def test_plugins_import_it_whoever_is_first(first, tmp_path):
  """Discovery imports plugins, which import selftune, which must not wait for discovery."""
  info = tmp_path / "stranger-1.0.dist-info"
  info.mkdir()
  (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
  modules = [path.stem for path in (ROOT / "docs/examples").glob("my_*.py")]
  entries = "".join(f"{module} = {module}\n" for module in modules)
  (info / "entry_points.txt").write_text(f"[selftune.plugins]\n{entries}")
  python(
    f"import sys; sys.path += {[str(tmp_path), str(ROOT / 'docs/examples')]}\n{first}\n"
    "from selftune.core.api import registry\n"
    "from selftune.core.config import discovery; discovery.load_all()\n"
    "assert registry.unavailable() == {}, registry.unavailable()\n"
    "one = {'corrector': 'one_step', 'env': 'corridor', 'metaopt': 'clipped'}\n"
    "assert all(name in registry.plugins()[kind] for kind, name in one.items())\n"
  )


@pytest.mark.parametrize("path", STRANGERS, ids=lambda path: path.stem)
def test_a_stranger_s_plugin_needs_nothing_but_it_and_few_lines(path):
  nodes = list(ast.walk(ast.parse(path.read_text())))
  modules = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
  modules |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
  assert not {module for module in modules if module.startswith("selftune.")}
  assert len([line for line in path.read_text().splitlines() if line.strip()]) < 40


@pytest.fixture
def run(config, tmp_path, compiled_once):
  return selftune.train(config, "train.seed = 3\nrmsprop.learning_rate = 0.01", tmp_path / "run")


def test_a_run_has_settings_and_tables(run, tmp_path, monkeypatch):
  assert run.workdir == tmp_path / "run"
  assert (run.config["train.seed"], run.config["vtrace.gamma"]) == (3, 0.99)
  rows = [json.loads(line) for line in (run.workdir / "metrics.jsonl").open()]
  assert run.metrics["env_steps"].tolist() == [row["env_steps"] for row in rows]
  assert run.metrics["env_steps"].iloc[-1] == 120 and len(run.metrics) == len(rows)
  lines = (run.workdir / "episodes.jsonl").read_text().splitlines()
  assert run.episodes.to_dict("records") == [json.loads(line) for line in lines]
  assert [axes.get_title(loc="left")[:10] for axes in run.plot().axes] == [
    *("Raw episod", "grad_norm", "param_norm"),
  ]
  again = selftune.load(str(run.workdir))
  assert again == run
  (run.workdir / "metrics.jsonl").unlink()
  with pytest.raises(UserError, match=r"metrics.jsonl does not exist.*@jsonl\(\)"):
    again.metrics  # noqa: B018


def test_tables_of_a_young_run_have_their_columns(run):
  (run.workdir / "episodes.jsonl").write_text("")
  (run.workdir / "metrics.jsonl").write_text("")
  assert list(run.episodes) == ["env_steps", "return", "length"]
  assert run.episodes["return"].tolist() == run.metrics["episode_return"].tolist() == []
  assert list(run.metrics)[:2] == ["env_steps", "wall_time"]
  # No episode has ended yet.
  (run.workdir / "metrics.jsonl").write_text('{"env_steps": 8, "wall_time": 1.5, "x": 2.0}')
  assert run.metrics["x"].tolist() == [2.0] and run.metrics["env_steps"].tolist() == [8]
  assert run.metrics["episode_return"].isna().tolist() == [True]


def test_a_run_goes_where_the_command_puts_it_and_goes_on(config, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  run = selftune.train(config, ["train.seed = 7", "train.total_env_steps = 40"])
  assert run.workdir == Path("runs", "config_seed7")
  with pytest.raises(UserError, match=r"a run already: add resume=True .* another workdir\.$"):
    selftune.train(config, "train.seed = 7")
  run = selftune.train(config, "train.seed = 7", resume=True)
  assert run.metrics["env_steps"].tolist()[-1] == 120
  assert selftune.load(run.workdir, step=2).evaluate(episodes=3)["env_steps"] == 40
  with pytest.raises(UserError, match="holds no run"):
    selftune.load(tmp_path / "nowhere")
  with pytest.raises(UserError, match=r"^binding 'train.sed = 1': 'train' has no parameter 'sed'"):
    selftune.train(config, "train.sed = 1")
  with pytest.raises(UserError, match=r"^max_steps 0: it must be "):
    selftune.evaluate(run.workdir, max_steps=0)


def test_a_program_may_train_in_a_thread(config, tmp_path, compiled_once):
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    run = pool.submit(selftune.train, config, workdir=tmp_path / "run").result()
  assert run.metrics["env_steps"].iloc[-1] == 120


@pytest.mark.slow
def test_of_many_runs_the_first_acts(tmp_path, compiled_once):
  (tmp_path / "many.gin").write_text(MOUNTAIN_CAR_RUNS + "train.writers = (@jsonl(),)")
  bindings = ["runs.repeats = 2", "train.total_env_steps = 20"]
  run = selftune.train(tmp_path / "many.gin", bindings, tmp_path / "many")
  assert sorted(set(run.episodes["run"])) == [0, 1]
  policy = run.policy()
  policy.reset()
  assert policy.act(np.zeros(2)) in (0, 1, 2) and run.evaluate(episodes=1)["run"] == 0


def test_a_run_is_scored_as_the_command_scores_it(run):
  scored = run.evaluate(episodes=6, seed=2)
  assert scored == selftune.evaluate(str(run.workdir), episodes=6, seed=2)
  assert (scored["env_steps"], scored["episodes"], scored["greedy"]) == (120, 6, False)


def driven(policy, pool, steps, show):
  """The actions of a policy that is shown a pool's timesteps."""
  timestep, actions = pool.reset(), []
  for _ in range(steps):
    actions.append(policy.act(*show(timestep)))
    pool.send(actions[-1])
    timestep = pool.recv()
  return np.array(actions)


@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize(
  "show",
  [lambda timestep: (timestep,), lambda timestep: (timestep.observation, timestep.first)],
  ids=["timestep", "observation"],
)
def test_a_policy_acts_as_the_agent_does_in_an_evaluation(run, monkeypatch, show, greedy):
  OPENED.clear()
  run.evaluate(episodes=3, seed=5, greedy=greedy)
  scored = OPENED[0]
  policy = run.policy(greedy, seed=5)
  policy.reset(batch=3)
  got = driven(policy, Counting().make(scored.seeds), len(scored.sent), show)
  np.testing.assert_array_equal(got, scored.sent)
  assert len(got) > 2 * int(run.config["train.unroll_length"]) - 5


def test_a_policy_acts_for_one_environment_too(run):
  policy = run.policy()
  observations = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
  policy.reset(batch=1, seed=4)
  batched = [policy.act(x[None])[0] for x in observations]
  policy.reset(seed=4)
  alone = [policy.act(x) for x in observations]
  assert alone == batched and {x.shape for x in alone} == {()} and len(set(alone)) > 1
  policy.reset()  # goes on to seed 5
  other = [policy.act(x) for x in observations]
  policy.reset(seed=5)
  assert [policy.act(x) for x in observations] == other != alone


def test_the_core_state_is_carried_and_cleared(run, monkeypatch):
  """The network's core counts the timesteps of an episode."""
  policy = run.policy(greedy=True)
  seen = []
  unroll = policy._agent.network.unroll

  def spy(params, timestep, core_state, gamma):
    jax.debug.callback(lambda x: seen.append(int(x[0])), core_state)
    return unroll(params, timestep, core_state, gamma)

  policy._agent.network = policy._agent.network._replace(unroll=spy)
  zeros = np.zeros(4, np.float32)
  policy.reset()
  for first in (None, None, None, True, None):
    policy.act(zeros, first)
  policy.reset()
  policy.act(zeros)
  jax.effects_barrier()
  assert seen == [0, 1, 2, 3, 1, 0]


def test_a_policy_says_what_it_takes(run):
  policy = run.policy()
  assert policy.spec.observation.shape == (4,) and policy.spec.action.num_values == 3
  with pytest.raises(UserError, match=r"call reset\(\) of the policy before its first act"):
    policy.act(np.zeros(4))
  with pytest.raises(UserError, match="batch = 0 must be at least 1"):
    policy.reset(0)
  policy.reset(2)
  for wrong in (np.zeros(4), np.zeros((3, 4)), np.zeros((2, 4), complex)):
    with pytest.raises(UserError, match=r"after reset\(2\) it takes float32\[2, 4\]"):
      policy.act(wrong)
  with pytest.raises(UserError, match=r"first has shape \[3\]; .* it is \[\] or \[2\]"):
    policy.act(np.zeros((2, 4)), first=[True, False, False])
  assert policy.act(np.zeros((2, 4), int)).shape == (2,)


@pytest.mark.parametrize(
  ("shown", "takes", "wrong"),
  [
    (np.array([7, 300], np.uint16), np.uint8, "shown 300; it takes uint8, numbers from 0 to 255,"),
    (np.array([7, 255], np.uint16), np.uint8, ""),
    (np.array([-1, 2**31]), np.int32, "shown 2147483648; it takes int32, .* to 2147483647, as"),
    (np.array([127, 200], np.uint8), np.int8, "shown 200; it takes int8, numbers from -128 to 127"),
    (np.array([-1, 2**31 - 1]), np.int32, ""),
    (np.array([True, False]), np.uint8, ""),
    (np.array([2**24 + 1, 0]), np.float32, ""),  # rounded, as everywhere
    (np.array(300, np.uint16), np.uint8, "shown 300"),
  ],
)
def test_an_integer_that_does_not_fit_is_refused(shown, takes, wrong):
  spec = api.EnvSpec(specs.Array(shown.shape, takes), None)
  shown = api.TimeStep(shown, 0, 1, True)
  if wrong:
    with pytest.raises(UserError, match=wrong):
      policies._batched(shown, spec, None)
  else:
    taken = policies._batched(shown, spec, None).observation
    assert taken.dtype == takes
    np.testing.assert_array_equal(taken[0], shown.observation.astype(takes))


def test_a_policy_meets_only_environments_that_training_has_not(run):
  OPENED.clear()
  run.policy()
  (pool,) = OPENED
  assert pool.closed and not set(pool.seeds) & Workdir(run.workdir).env_seeds()


def test_a_missing_checkpoint_is_named(run):
  with pytest.raises(UserError, match=r"no checkpoint of update 99"):
    selftune.load(run.workdir, step=99).policy()
  assert selftune.evaluate.__wrapped__ is evaluate.evaluate

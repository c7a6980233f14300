"""Populations on the device and in a pool: what is copied, resumed to the bit, compiled once."""

import contextlib
import csv
import dataclasses
import re

import fakes
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
import yaml
from dm_env import specs
from test_runs import SHORT, host, online

from selftune.core import train as training
from selftune.core.api import FunctionalPool, NotNegative, jsonl, native, registry
from selftune.core.api.errors import UserError
from selftune.core.api.types import EnvSpec, TimeStep
from selftune.core.commands import cli
from selftune.core.config import discovery
from selftune.core.evaluation import evaluate
from selftune.core.machine import platform
from selftune.core.record import lineage, plotting
from selftune.core.runs.device import Runs
from selftune.core.runs.pool import PoolRuns
from selftune.core.runs.settings import Members
from selftune.core.trained import load
from selftune.plugins.metaopt.metagradient import Metagradient
from selftune.plugins.tuners.metatrace import Metatrace

pytestmark = pytest.mark.usefixtures("compiled_once")

LENGTH = 3  # transitions of an episode


@dataclasses.dataclass(frozen=True)
class Paid:
  """Every step is paid alike: a run's score is LENGTH times its setting.

  Its state has an array without an element, as those of MJX do.
  """

  pay: NotNegative = 1.0
  bad_from: float = 1e9  # the reward is not finite if pay exceeds this

  @property
  def spec(self):
    return EnvSpec(specs.Array((2,), np.float32), specs.DiscreteArray(2, dtype=np.int32))

  def init(self, key):
    del key
    return (jnp.int32(0), jnp.zeros((0, 2))), self._timestep(jnp.int32(0), 0.0)

  def step(self, state, action):
    del action
    state, empty = state
    state = jnp.where(state == LENGTH, 0, state + 1)
    pay = jnp.where(self.pay > self.bad_from, jnp.nan, self.pay)
    return (state, empty), self._timestep(state, jnp.where(state == 0, 0.0, pay))

  def _timestep(self, state, reward):
    seen = jnp.stack([state, 1 - state]).astype(jnp.float32)
    done = state == LENGTH
    return TimeStep(seen, jnp.float32(reward), 1 - jnp.float32(done), state == 0)

  def make(self, seeds):
    return FunctionalPool(self, seeds)


CONFIG = """
include 'algos/impala.gin'
include 'populations/pbt.gin'
gamma = 0.9
train.env = @paid()
agent.network = @mlp()
mlp.hidden = (4,)
mlp.head_hidden = None
train.writers = (@jsonl(),)
train.num_envs = 2
train.unroll_length = 4
train.total_env_steps = 192
train.log_seconds = 0.0
train.runtime = @runs()
runs.iterations = 2
runs.settings = {'paid.pay': (1.0, 2.0, 4.0, 8.0), 'rmsprop.learning_rate': (0.01,)}
population.every_env_steps = 32
"""  # looks at 16, 32, ... env steps of a run; exchanges at 32, 64, ..., 160


@pytest.fixture
def gin(tmp_path, monkeypatch):
  fakes.PLUGINS["paid"] = ("env", Paid)
  fakes.register(monkeypatch)
  fakes.PLUGINS.pop("paid")
  monkeypatch.setattr(plotting, "plot", lambda *args: None)
  path = tmp_path / "population.gin"
  path.write_text(CONFIG)
  return str(path)


def table(workdir, name="runs.csv"):
  with (workdir / name).open() as file:
    return list(csv.DictReader(file))


def test_runs_take_over_and_resume_to_the_bit(gin, tmp_path, monkeypatch):
  compiled = []
  monkeypatch.setattr(Runs, "close", lambda self: compiled.append(self))
  whole = training.train(gin, (), tmp_path / "whole")
  assert whole.done and whole.env_steps == 4 * 192
  (runs,) = compiled  # one program advances them, whatever is exchanged
  assert runs._compiled._cache_size() == runs._inherit._cache_size() == 1

  rows = lineage.read(tmp_path / "whole" / lineage.FILE)
  assert [row.exchange for row in rows] == [e for e in range(6) for _ in range(4)]
  assert [row.env_steps for row in rows[::4]] == [4 * 32 * e for e in range(6)]
  pay = [1.0, 2.0, 4.0, 8.0]
  for at in range(6):
    of_this = rows[4 * at : 4 * at + 4]
    assert [row.before["paid.pay"] for row in of_this] == pytest.approx(pay)
    if at:
      assert [row.score for row in of_this] == pytest.approx([LENGTH * x for x in pay])
      worst, best = int(np.argmin(pay)), int(np.argmax(pay))
      assert [row.parent for row in of_this] == [best if r == worst else r for r in range(4)]
      factor = of_this[worst].settings["paid.pay"] / pay[best]
      assert factor == pytest.approx(0.8) or factor == pytest.approx(1.25)
      pay[worst] = of_this[worst].settings["paid.pay"]
    assert [row.settings["paid.pay"] for row in of_this] == pytest.approx(pay)
  found = table(tmp_path / "whole")
  assert [float(row["paid.pay"]) for row in found] == pytest.approx(pay)
  last = fakes.rows(tmp_path / "whole")[-1]
  assert last["settings/paid.pay/greatest"] == pytest.approx(max(pay))
  scored = evaluate.evaluate(tmp_path / "whole", episodes=3)
  assert scored["run"] == int(np.argmax(pay))
  assert scored["mean"] == scored["max"] == pytest.approx(LENGTH * max(pay))

  asked = []

  @contextlib.contextmanager
  def stop_at_the_fifth_look():
    yield lambda: asked.append(None) or len(asked) == 10  # the loop asks twice a look

  monkeypatch.setattr(platform, "stop_signals", stop_at_the_fifth_look)
  part = training.train(gin, (), tmp_path / "parts")
  assert not part.done and 4 * 64 < part.env_steps < 4 * 96
  with (tmp_path / "parts" / lineage.FILE).open("a") as file:  # of exchanges that were not saved
    file.write('{"env_steps": 100000, "exchange": 9, "run": 0, "parent": 1}\n{"env_st')
  rest = training.train(gin, (), tmp_path / "parts", resume=True)
  assert rest.done and rest.env_steps == whole.env_steps
  assert fakes.checksums(tmp_path / "parts") == fakes.checksums(tmp_path / "whole")
  assert lineage.read(tmp_path / "parts" / lineage.FILE) == rows
  assert table(tmp_path / "parts") == found
  assert rest.population == whole.population
  found = load(tmp_path / "parts").lineage
  assert list(found["parent"]) == [row.parent for row in rows] and len(found) == 24
  episodes = fakes.rows(tmp_path / "whole", "episodes")
  assert fakes.rows(tmp_path / "parts", "episodes") == episodes


@pytest.mark.slow
def test_what_bandits_know_is_resumed(gin, tmp_path, monkeypatch):
  bindings = (
    "population.explore = @pb2()",
    "population.exploit = @tournament()",
    "population.bounds = {'paid.pay': (0.5, 9.0), 'rmsprop.learning_rate': (1e-3, 0.1)}",
    "population.first = 'drawn'",
  )
  whole = training.train(gin, bindings, tmp_path / "whole")
  rows = lineage.read(tmp_path / "whole" / lineage.FILE)
  pay = np.array([row.settings["paid.pay"] for row in rows]).reshape(6, 4)
  assert pay.min() >= 0.5 and set(pay[-1]) == {9.0}  # it finds what pays most, a bound
  asked = []

  @contextlib.contextmanager
  def stop_at_the_seventh_look():
    yield lambda: asked.append(None) or len(asked) == 14

  monkeypatch.setattr(platform, "stop_signals", stop_at_the_seventh_look)
  assert not training.train(gin, bindings, tmp_path / "parts").done
  rest = training.train(gin, bindings, tmp_path / "parts", resume=True)
  assert rest.population == whole.population
  assert lineage.read(tmp_path / "parts" / lineage.FILE) == rows
  assert fakes.checksums(tmp_path / "parts") == fakes.checksums(tmp_path / "whole")


def test_a_run_that_diverged_begins_anew_as_a_copy(gin, tmp_path):
  bindings = ("paid.bad_from = 7.0", "train.total_env_steps = 48", "perturb.factors = (0.5,)")
  training.train(gin, bindings, tmp_path / "run")
  rows = lineage.read(tmp_path / "run" / lineage.FILE)[4:]
  assert [row.parent for row in rows] == [0, 1, 2, 2]
  assert [row.score for row in rows] == [3, 6, 12, None]
  assert rows[3].settings["paid.pay"] == 2.0
  last = table(tmp_path / "run")[3]
  assert last["diverged"] == "False" and last["env_steps"] == "48"


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["stac", "ac_lambda"])
def test_any_agent_is_a_population(gin, tmp_path, algo):
  """Tuned numbers are copied with the learner; beside training runs are scored as they are."""
  more = {
    "stac": "runs.iterations = 2\npopulation.every_env_steps = 32\ntrain.num_envs = 2\n"
    "train.unroll_length = 4\ngamma = 0.9\nmlp.hidden = (4,)\n",
    "ac_lambda": "tuner = @metatrace()\nruns.iterations = 16\npopulation.every_env_steps = 16\n",
  }
  text = f"""
include 'algos/{algo}.gin'
include 'populations/pbt.gin'
train.env = @paid()
agent.network = @mlp()
train.writers = (@jsonl(),)
train.total_env_steps = 96
train.log_seconds = 0.0
train.runtime = @runs()
runs.run_writers = (@jsonl(),)
runs.settings = {{'paid.pay': (1.0, 2.0, 4.0, 8.0)}}
train.evaluation = @evaluation()
evaluation.every_env_steps = 32
evaluation.episodes = 2
evaluation.num_envs = 1
{more[algo]}"""
  path = tmp_path / "other.gin"
  path.write_text(text)
  assert training.train(str(path), (), tmp_path / "run").done
  rows = lineage.read(tmp_path / "run" / lineage.FILE)
  assert max(row.exchange for row in rows) >= 2
  for number in range(4):
    mine = [row for row in rows if row.run == number]
    scores = fakes.rows(tmp_path / "run" / "runs" / f"00{number}", "eval")
    assert scores
    for row in scores:
      now = [r for r in mine if r.env_steps <= 4 * row["env_steps"]][-1]
      assert row["mean"] == pytest.approx(LENGTH * now.settings["paid.pay"])


@pytest.mark.parametrize("devices, chunk", [(1, 32), pytest.param(2, 1, marks=pytest.mark.slow)])
def test_what_a_copy_has_of_its_parent_and_what_of_its_own(devices, chunk):
  agent = small.agent(Metagradient(tune=("*.cost",)))
  members = Members(agent, (5, 6, 7), {"entropy.cost": (0.1, 0.2, 0.3)}, 4, 5, 9)
  runs = Runs(members, Careful(), jax.devices()[:devices], chunk=chunk)
  states = runs.init()
  before = host(states, slice(3))
  parents = np.array([2, 1, 1])
  after = host(runs.inherit(states, parents), slice(3))
  for name in ("params", "opt_state", "meta_state", "step", "failure"):
    want = jax.tree.map(lambda x: x[parents], getattr(before.learner, name))
    jax.tree.map(np.testing.assert_array_equal, getattr(after.learner, name), want)
  np.testing.assert_array_equal(after.learner.key, before.learner.key)
  for name in set(after._fields) - {"learner"}:
    jax.tree.map(np.testing.assert_array_equal, getattr(after, name), getattr(before, name))
  assert np.any(after.learner.params["torso"][0] != before.learner.params["torso"][0])


class Careful(Paid):
  """The same, of the observations that the small agent takes."""

  @property
  def spec(self):
    return small.SPEC

  def _timestep(self, state, reward):
    found = super()._timestep(state, reward)
    return found._replace(observation=jnp.tile(found.observation, 2))


def test_a_pool_goes_on_with_other_settings_and_learners_without_compiling():
  members = Members(online(Metatrace()), (5, 6, 7), {"ac_lambda.alpha": (0.01, 0.02, 0.03)})
  with contextlib.closing(PoolRuns(members, SHORT, jax.devices()[:1])) as pool:
    states, _ = pool.advance(pool.init(), 3)
    # Once more before it is counted: what `init` and an exchange give may be placed otherwise.
    states, _ = pool.advance(pool.inherit(states, np.array([0, 1, 2])), 1)
    states, _ = pool.advance(states, 1)
    sizes = [f._cache_size() for f in (pool._act, *pool._learn)]
    before = host(states)
    states = pool.inherit(states, np.array([2, 1, 2]))
    pool.take({"ac_lambda.alpha": (0.5, 0.02, 0.03)})
    after = host(states)
    want = jax.tree.map(lambda x: x[[2, 1, 2]], before.learner.params)
    jax.tree.map(np.testing.assert_array_equal, after.learner.params, want)
    states, _ = pool.advance(states, 2)
    states = pool.inherit(states, np.array([0, 1, 1]))
    pool.advance(states, 1)
    assert [f._cache_size() for f in (pool._act, *pool._learn)] == sizes
    assert pool._inherit._cache_size() == 1
    np.testing.assert_allclose(pool._values["ac_lambda.alpha"], [0.5, 0.02, 0.03])


def test_a_run_of_a_pool_that_stood_still_goes_on_from_where_its_environments_are():
  members = Members(online(Metatrace()), (5, 6), {"ac_lambda.alpha": (0.01, 0.02)})
  with contextlib.closing(PoolRuns(members, SHORT, jax.devices()[:1])) as pool:
    states, _ = pool.advance(pool.init(), 3)
    failed = states.learner._replace(failure=jnp.array([-1, 0]))
    before = host(states := states._replace(learner=failed))
    states, ends = pool.advance(states, 10)
    after = host(states)
    assert after.env_steps[1] == before.env_steps[1] < after.env_steps[0]
    assert not ends.ended[1].any() and ends.ended[0].any()
    still = lambda tree: jax.tree.map(lambda x: x[1], tree.learner.params)
    jax.tree.map(np.testing.assert_array_equal, still(after), still(before))
    # Episodes of both end by their limit: how far they are is equal.
    of_episode = (after.timestep.first, after.returns, after.lengths)
    jax.tree.map(lambda x: np.testing.assert_array_equal(x[0], x[1]), of_episode)
    assert after.lengths[1] != before.lengths[1]
    assert (after.timestep.observation[1] != before.timestep.observation[1]).any()


@pytest.mark.slow
@pytest.mark.skipif(native.compiler() is None, reason="there is no C++ compiler")
def test_machine_code_goes_on_with_other_settings():
  discovery.load_all()
  members = Members(online(Metatrace()), (5, 6), {"ac_lambda.gamma": (0.9, 0.99)})
  found = []
  for by_machine_code in (True, False):
    runs = Runs(members, SHORT, jax.devices()[:1], native=by_machine_code)
    assert (runs._native is not None) == by_machine_code
    states, _ = runs.advance(runs.init(), 2)
    states = runs.inherit(states, np.array([1, 1]))
    runs.take({"ac_lambda.gamma": (0.5, 0.99)})
    found.append(host(runs.advance(states, 2)[0]))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *found)
  value = found[0].learner.params["value"]
  assert np.abs(value[0] - value[1]).max() > 1e-3


@pytest.mark.slow
def test_in_a_study_the_settings_of_a_seed_are_a_population(gin, tmp_path):
  (tmp_path / "alone.gin").write_text(re.sub(r".*populat.*\n", "", CONFIG))
  study = {
    "environments": {"paid": []},
    "agents": {"pbt": gin, "alone": str(tmp_path / "alone.gin")},
    "settings": {"paid.pay": [1.0, 2.0, 4.0, 8.0]},
    "seeds": 2,
  }
  (tmp_path / "my.yaml").write_text(yaml.safe_dump(study))
  out = tmp_path / "out"
  assert cli.main(["study", str(tmp_path / "my.yaml"), "--out", str(out), "--resamples", "5"]) == 0
  rows = table(out, "study.csv")
  alone, pbt = ([row for row in rows if row["agent"] == agent] for agent in ("alone", "pbt"))
  begun = [(pay, seed) for pay in (1.0, 2.0, 4.0, 8.0) for seed in (0, 1)]
  of = lambda rows: [(float(row["setting:paid.pay"]), int(row["seed"])) for row in rows]
  assert of(alone) == begun and of(pbt) == sorted(begun, key=lambda one: one[1])
  assert [float(row["score"]) for row in alone] == [3 * pay for pay, _ in begun]
  # A population a seed: the worst have gone on as copies of the best, at 0.8 or 1.25 times 8.
  for seed in (0, 1):
    folder = out / "cells" / "pbt" / "paid" / str(seed)
    last = [float(row["paid.pay"]) for row in table(folder)]
    members = pbt[4 * seed : 4 * seed + 4]
    assert [float(row["first:paid.pay"]) for row in members] == [1.0, 2.0, 4.0, 8.0]
    assert [float(row["last:paid.pay"]) for row in members] == last and min(last) > 2.0
    assert [int(row["seed"]) for row in table(folder)] == [4 * seed + k for k in range(4)]
    assert len(list(jsonl.read(folder / "lineage.jsonl"))) == 4 * 6


@pytest.mark.parametrize(
  "binding, message",
  [
    ("population.every_env_steps = 15", "looks at the runs every 16 env steps of each"),
    ("population.bounds = {'paid.pay': (2.0, 9.0)}", "'paid.pay' begins at 1.0, beyond"),
    ("population.bounds = {'paid.pay': (-1.0, 9.0)}", "takes float at least 0, not -1.0"),
    ("population.bounds = {'paid.play': (0.0, 9.0)}", "Did you mean 'paid.pay'"),
    ("population.first = 'drawn'", "population.first = 'drawn' takes bounds"),
    ("runs.settings = {}", "varies what runs.settings holds, which is no number"),
    ("truncation.quantile = 0.6", "truncation.quantile takes float above 0, to 0.5, not 0.6"),
    ("population.explore = @truncation()", "takes a component of kind explore"),
  ],
)
def test_mistakes(gin, tmp_path, binding, message):
  with pytest.raises(UserError, match=message):
    training.train(gin, (binding,), tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_a_plugin_that_gives_what_it_must_not_ends_the_run_with_one_line(gin, tmp_path):
  @dataclasses.dataclass(frozen=True)
  class Wrong:
    """Every run becomes a copy of a run that is not there."""

    def __call__(self, rng, scores):
      return np.arange(1, len(scores) + 1)

  registry.register("exploit", "wrong")(Wrong)
  with pytest.raises(UserError, match=r"exploit @wrong\(\) gave parents \[1, 2, 3, 4\]"):
    training.train(gin, ("population.exploit = @wrong()",), tmp_path / "run")

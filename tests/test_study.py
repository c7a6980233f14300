"""Studies: files, runs as programs and as processes, what is measured, and the page of any CSV."""

import contextlib
import csv
import json
import math
import re
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import fakes
import numpy as np
import pytest
import yaml

from selftune.core import config
from selftune.core import train as training
from selftune.core.api.errors import NonFiniteError, RunError, UserError
from selftune.core.commands import cli
from selftune.core.machine import platform
from selftune.core.record import plotting
from selftune.core.reports import results, study_page
from selftune.core.reports import study as statistics
from selftune.core.reports.results import Row
from selftune.core.runs import settings
from selftune.core.studies import file, measure, study
from selftune.core.sweeps import point
from selftune.core.sweeps.point import DIVERGED
from selftune.core.sweeps.program import apart_because, fields_of

pytestmark = pytest.mark.usefixtures("compiled_once")

AGENTS = {"a": "experiments/catch_stacx", "b": {"config": "experiments/cartpole_stac"}}
STUDY = {
  "environments": {"catch": ["include 'envs/catch.gin'"], "pole": ["include 'envs/cartpole.gin'"]},
  "agents": AGENTS,
  "settings": {"value.cost": [0.1, 0.3]},
  "seeds": 2,
}


@pytest.fixture
def write(tmp_path, monkeypatch):
  """Writes a study file, in the current folder."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(plotting, "plot", lambda *args: None)

  def study(**entries):
    found = {k: v for k, v in (STUDY | entries).items() if v is not None}
    Path("my.yaml").write_text(yaml.safe_dump(found))
    return "my.yaml"

  return study


def test_a_study_is_a_grid(write):
  found = file.read(write(bind=["train.num_envs = 2"], score={"last": 0.2}))
  assert [(cell.agent, cell.environment) for cell in found.cells] == [
    *(("a", "catch"), ("a", "pole"), ("b", "catch"), ("b", "pole")),
  ]
  cell = found.cells[1]
  assert cell.bindings == ("train.num_envs = 2", "include 'envs/cartpole.gin'")
  assert cell.points == [
    *({"value.cost": cost, "train.seed": seed} for cost in (0.1, 0.3) for seed in (0, 1)),
  ]
  assert found.last == 0.2
  assert config.load(cell.experiment, cell.bindings).root.env.task == "CartPole-v1"


def test_settings_of_an_agent_lists_and_nothing(write):
  listed = [{"gamma": 0.9, "value.cost": 1}, {"gamma": 0.8, "value.cost": 2}]
  agents = {
    "a": {"config": "x", "settings": listed},
    "b": {"config": "x", "settings": {}},
    "c": "x",
  }
  found = {cell.agent: cell for cell in file.read(write(agents=agents, seeds=[4])).cells}
  assert found["a"].settings == listed and found["a"].seeds == [4]
  assert found["b"].points == [{"train.seed": 4}]
  assert found["c"].settings == [{"value.cost": 0.1}, {"value.cost": 0.3}]


def test_draws_lie_within_their_range(write):
  high = 0.99999996  # 1 in six digits
  narrow = {"x.y": {"min": 0.99999995, "max": high}}
  (setting, *_) = file.read(write(settings=narrow, draw=1)).cells[0].settings
  assert 0.99999995 <= setting["x.y"] <= high


def test_settings_are_drawn(write):
  ranges = {
    "x.rate": {"min": 1e-4, "max": 1.0, "log": True},
    "x.y": {"min": -1, "max": 1},
    "z": [5],
  }
  name = write(settings=ranges, draw=200)
  one, two = file.read(name).cells[:2]
  assert one.settings == two.settings == file.read(name).cells[0].settings
  rates = np.array([setting["x.rate"] for setting in one.settings])
  assert len(rates) == 200 and 1e-4 <= rates.min() and rates.max() <= 1
  assert 0.35 < np.mean(rates < 1e-2) < 0.65  # half of the logarithm
  assert {setting["z"] for setting in one.settings} == {5}
  few = file.read(write(settings={"z": [1, 2, 3]}, draw=50)).cells[0].settings
  assert sorted(setting["z"] for setting in few) == [1, 2, 3]  # each once


def test_no_more_is_drawn_than_is_asked_for(monkeypatch):
  random, drawn = np.random.default_rng(0), []
  uniform = lambda low, high: drawn.append(random.uniform(low, high)) or drawn[-1]
  monkeypatch.setattr(np.random, "default_rng", lambda _: SimpleNamespace(uniform=uniform))
  points = file._drawn({"x.y": {"min": 0, "max": 1}}, 7)
  assert [point["x.y"] for point in points] == pytest.approx(drawn, abs=1e-6) and len(drawn) == 7


WRONG = {
  "no agents": ({"agents": None}, "a study has agents: {NAME: CONFIG}"),
  "key": ({"seed": 3}, "a study has no 'seed'. Did you mean 'seeds'?"),
  "agent's key": ({"agents": {"a": {"config": "x", "binds": []}}}, "has no 'binds'. Did you mean"),
  "no config": ({"agents": {"a": {"bind": []}}}, "agents: a: write {config: experiments/NAME"),
  "names": ({"agents": {1: "x"}}, "agents: 1 is no name"),
  "folder": ({"environments": {"../x": []}}, "environments: '../x' is no name"),
  "list": ({"environments": ["catch"]}, "write environments: {NAME: [BINDINGS]}"),
  "binding": ({"bind": [3]}, "bind: write a list of bindings"),
  "seeds": ({"seeds": 0}, "seeds: 0: write how many, as 5, or which"),
  "a seed": ({"seeds": [0, 2**32]}, "a seed is int from 0 to 2^32 - 1"),
  "no seed": ({"seeds": [False]}, "seeds: [False]: write how many"),
  "seeds twice": ({"seeds": [1, 1]}, "seeds: [1, 1]: write how many"),
  "seed": ({"settings": {"train.seed": [1]}}, "train.seed is no setting: write seeds: [0, 1, 2]"),
  "score": ({"score": {"last": 2}}, "score: {'last': 2}: write {last: 0.1}"),
  "values": ({"settings": {"value.cost": 0.1}}, "value.cost: write a list of values"),
  "value": ({"settings": {"value.cost": [[1]]}}, "value.cost: [1]: write a finite number"),
  "twice": ({"settings": {"value.cost": [1, 1.0]}}, "{'value.cost': 1.0} is there twice"),
  "range": (
    {"settings": {"value.cost": {"min": 0, "max": 1}}},
    "a range is drawn from: write draw",
  ),
  "no range": ({"settings": {"v.c": {"mn": 0}}, "draw": 3}, "v.c: a range is {min: 1e-4"),
  "empty range": (
    {"settings": {"v.c": {"min": 1, "max": 0}}, "draw": 3},
    "min 1 is not below max 0",
  ),
  "draw": ({"settings": [{"v.c": 1}], "draw": 3}, "write draw: 20, say, and settings: {NAME"),
  "too many draws": (
    {"settings": {"v.c": {"min": 0, "max": 1}}, "draw": 3 * 10**7},
    "draw: 30,000,000 settings are more than 100,000: write draw: 20, say.",
  ),
  "names differ": ({"settings": [{"v.c": 1}, {"v.d": 1}]}, "of a list has the same names"),
  "too many": ({"settings": {f"v.c{i}": [*range(100)] for i in range(4)}}, "100,000,000 combin"),
  "too many runs": ({"seeds": 10**5}, "800,000 runs are more than 100,000"),
  "configuration": ({"settings": {"value.csot": [1, 2]}}, "a on catch, value.csot = 1: --bind"),
  "later setting": ({"settings": {"value.cost": [1, "@x()"]}}, "a on catch, value.cost = @x(): "),
  "no log": ({"bind": ["train.writers = (@terminal(),)"]}, "put @jsonl() among train.writers"),
  "experiment": ({"agents": {"a": "catch_stacks"}}, "a on catch: no gin file or experiment"),
}


@pytest.mark.parametrize("given, message", WRONG.values(), ids=WRONG)
def test_mistakes_create_nothing(write, capsys, given, message):
  assert cli.main(["study", write(**given)]) == 2
  told = capsys.readouterr().err
  assert message in told and told.startswith("selftune: my.yaml: ") and told.count("\n") == 1, told
  assert not Path("runs").exists()


def test_mistakes_in_the_arguments(write, capsys, monkeypatch):
  for arguments, message in (
    (
      ["stduies/mountain_car"],
      "no study 'stduies/mountain_car'. Did you mean 'studies/mountain_car'",
    ),
    ([write(), "--workers", "0"], "--workers 0 must be at least 1"),
    ([write(), "--resamples", "0"], "--resamples 0 must be at least 1"),
    ([write(), "--out", "/proc/cpuinfo/x"], "--out /proc/cpuinfo/x: cannot write to /proc"),
    (["absent.csv"], "cannot read absent.csv"),
  ):
    assert cli.main(["study", *arguments]) == 2
    assert message in capsys.readouterr().err
  monkeypatch.setitem(sys.modules, "rliable", None)
  assert cli.main(["study", write()]) == 2
  assert "pip install 'selftune[report]'" in capsys.readouterr().err
  assert not Path("runs").exists()


def test_a_macro_is_the_numbers_that_hold_it():
  flat = {"v.gamma": 0.9, "s/o.gamma": 0.9, "t/o.gamma": 0.9, "x.decay": 0.9, "v.cost": 1.0}
  flats = [flat | dict.fromkeys(("v.gamma", "s/o.gamma", "t/o.gamma"), g) for g in (0.9, 0.8)]
  points = [{"gamma": g, "v.cost": 1.0, "train.seed": 0} for g in (0.9, "0.8")]
  found = fields_of(flats, points)
  assert found == {
    "gamma": ("v.gamma", "o.gamma"),
    "v.cost": ("v.cost",),
    "train.seed": ("train.seed",),
  }
  flats[1]["t/o.gamma"] = 0.9  # one scope has a value of its own, and settings count in all
  assert fields_of(flats, points)["gamma"] == ()
  both = [{"v.gamma": g, "v.both": (g, 1)} for g in (0.9, 0.8)]
  assert fields_of(both, [{"gamma": g} for g in (0.9, 0.8)]) == {"gamma": ()}


def test_a_macro_varies_in_one_program():
  binds = (
    *("tuner = @constant_step()", "runs.settings = {}", "runs.repeats = 1"),
    *("ac_lambda.lambda_ = %g", "ac_lambda.gamma = %g"),
  )
  points = [{"g": 0.5}, {"g": 0.6}]
  name = "experiments/metatrace_mountain_car"
  loaded = [config.load(name, (*binds, f"g = {point['g']}")) for point in points]
  fields = fields_of([it.flat for it in loaded], points)
  assert set(fields["g"]) == {"ac_lambda.lambda_", "ac_lambda.gamma"}
  assert apart_because(loaded[0].root, points, fields) is None
  assert "g is not one number" in apart_because(loaded[0].root, points, {"g": ()})


def test_what_a_scope_has_a_value_of_its_own_for_is_no_program():
  # As a program's setting it would be of the outer critic, too: another experiment.
  name = "experiments/snake_outer_critic"
  points = [{"gae.lambda_": x} for x in (0.5, 0.6)]
  loaded = [config.load(name, (f"gae.lambda_ = {point['gae.lambda_']}",)) for point in points]
  assert loaded[0].root.agent.objective.outer_corrector.lambda_ == 1.0
  fields = fields_of([it.flat for it in loaded], points)
  assert "gae.lambda_ is not one number" in apart_because(loaded[0].root, points, fields)
  with pytest.raises(ValueError, match=r"differ, as gin's scopes make them: 0\.5 and 1\.0"):
    settings.check(loaded[0].root.agent, {"gae.lambda_": [0.1]}, 1)


def test_scores_by_a_loop():
  random = np.random.default_rng(0)
  episodes = [(float(at), float(random.normal())) for at in sorted(random.integers(1, 1001, 300))]
  late = [value for at, value in episodes if at > 900]
  assert measure.score(episodes, 1000.0, 0.1) == pytest.approx(np.mean(late))
  assert measure.score(episodes, 1000.0, 1.0) == pytest.approx(np.mean([v for _, v in episodes]))
  means = {}
  for k in range(100):
    of = [value for at, value in episodes if 10 * k < at <= 10 * (k + 1)]
    if of:
      means[k] = sum(of) / len(of)
  total = 0.0
  for k in range(100):
    below = max((j for j in means if j <= k), default=min(means))
    above = min((j for j in means if j >= k), default=max(means))
    part = 0.0 if above == below else min(1.0, max(0.0, (k - below) / (above - below)))
    total += means[below] + part * (means[above] - means[below])
  assert measure.area(episodes, 1000.0) == pytest.approx(total / 100)


def test_an_area_by_hand():
  # Segments 1 to 50 are -1, segments 52 to 100 are 3, and the one between is half way.
  episodes = [(1.0, -1.0), (50.0, -1.0), (52.0, 3.0), (100.0, 3.0)]
  assert measure.area(episodes, 100.0) == pytest.approx((50 * -1 + 1 + 49 * 3) / 100)
  many = [(1.0, 5.0)] * 1000 + [(100.0, 7.0)]  # on a straight line between the two
  assert measure.area(many, 100.0) == pytest.approx(6)
  assert math.isnan(measure.area([], 100.0)) and math.isnan(measure.score([(1.0, 1.0)], 100.0, 0.1))


def logs(workdir, value, steps=100, **last):
  """What a run leaves behind: 50 episodes, the last ten of which return `value`."""
  workdir.mkdir(parents=True, exist_ok=True)
  tuned = {"tuned/entropy.cost/0": 0.5, "tuned/entropy.cost/1": 2.0, "beta/mean": -3.0, "x/y": 1}
  rows = [{"env_steps": 0, "wall_time": 1.0, **tuned}]
  rows.append({"env_steps": steps, "wall_time": 8.0, "tuned/entropy.cost/0": 0.25, **last})
  episodes = [{"env_steps": 2 * k, "return": value if k > 45 else -1.0} for k in range(1, 51)]
  for name, of in (("metrics", rows), ("episodes", episodes)):
    (workdir / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in of))


def test_a_run_is_measured(tmp_path):
  logs(tmp_path, 7.0)
  found = measure.measure(tmp_path, 0.1)
  assert (found.score, found.env_steps, found.wall_time) == (7.0, 100, 8.0) and not found.diverged
  assert found.first == {"entropy.cost": 0.5, "entropy.cost/1": 2.0, "beta/mean": -3.0}
  assert found.last == found.first | {"entropy.cost": 0.25}
  # Every second segment has an episode: 2 to 90 at -1, 92 to 100 at 7, one is between them.
  assert found.auc == pytest.approx((90 * -1 + 3 + 9 * 7) / 100)
  logs(tmp_path, 7.0, **{"runs/diverged": 1})
  assert measure.measure(tmp_path, 0.1).diverged
  nothing = measure.measure(tmp_path / "absent", 0.1)
  assert math.isnan(nothing.score) and math.isnan(nothing.env_steps) and nothing.first == {}


@pytest.fixture
def trained(monkeypatch):
  """The runs that were trained, by processes that only write what one leaves behind."""
  calls = []

  def train(workdir, values):
    calls.append("/".join(workdir.parts[-4:]))
    cost, seed = float(values["value.cost"]), int(values["train.seed"])
    fails = (cost, seed) == (0.3, 1) and "pole" in str(workdir)
    logs(workdir, cost + 0.1 * seed + ("a" in workdir.parts))
    (workdir / "log.txt").write_text("Traceback ...\nselftune: no luck\n")
    if fails:
      return DIVERGED if "b" in workdir.parts else 1
    (workdir / "done").touch()
    return 0

  monkeypatch.setattr(study, "Processes", fakes.processes(train))
  return calls


def test_a_process_says_that_its_run_diverged(monkeypatch, capsys):
  def finish(*arguments):
    raise errors[0]

  monkeypatch.setattr(training, "finish", finish)
  monkeypatch.setattr(point, "_end_with_parent", lambda: None)
  monkeypatch.setattr(sys, "argv", ["point", "x.gin", "out", ""])
  for error, code in (
    (NonFiniteError("it was"), DIVERGED),
    (RunError("a"), 1),
    (UserError("b"), 1),
  ):
    errors = [error]
    with pytest.raises(SystemExit) as ended:
      point.main()
    assert ended.value.code == code and capsys.readouterr().err == f"selftune: {error}\n"


def table(path):
  with path.open() as rows:
    return list(csv.DictReader(rows))


def test_an_edited_configuration_is_another_study(write):
  name = write(agents={"a": "my.gin"}, environments={"catch": []}, seeds=1)
  found, kept = file.read(name), Path("out/cells/a/catch/cell.json")

  def keep(bindings):
    Path("my.gin").write_text(f"include 'experiments/catch_stacx.gin'\n{bindings}\n")
    (plan,) = study._plans(found, found.cells[0], "auto")
    study._keep(found, plan, Path("out"))

  keep("entropy.cost = 0.1")
  keep("entropy.cost = 0.1\ntrain.writers = (@jsonl(),)")  # which a resumed run may change
  with pytest.raises(UserError, match=r"out/cells/a/catch holds other runs than my\.yaml has now"):
    keep("entropy.cost = 0.2")
  # Before this version a cell kept no configuration; other versions may know other settings.
  says = json.loads(kept.read_text())
  configuration = says.pop("configuration")
  kept.write_text(json.dumps(says))
  keep("entropy.cost = 0.2")
  assert json.loads(kept.read_text())["configuration"] == configuration | {"entropy.cost": "0.2"}
  del configuration["entropy.cost"]
  kept.write_text(json.dumps(says | {"configuration": configuration | {"a.gone": "1"}}))
  keep("entropy.cost = 0.3")
  kept.write_text(json.dumps(says | {"experiment": "other.gin"}))
  with pytest.raises(UserError, match="holds other runs"):
    keep("entropy.cost = 0.3")


@pytest.mark.slow
def test_runs_as_processes(write, trained, capsys):
  name = write()
  assert cli.main(["study", name, "--resamples", "5", "--workers", "3"]) == 1  # one failed
  out = Path("runs/studies/my")
  assert len(trained) == 16 and trained[0] == "a/catch/runs/000"
  told = capsys.readouterr()
  assert (
    "a on catch: a process a run, because train.runtime is @lockstep(), not @runs()" in told.err
  )
  assert "a on pole (value.cost=0.3, train.seed=1) failed: no luck (all of it: " in told.err
  assert re.search(r"^a +2 +2 ", told.out, re.M) and "study.csv" in told.out
  rows = table(out / "study.csv")
  assert list(rows[0])[:3] == ["agent", "environment", "setting:value.cost"]
  bad = {(r["agent"], r["status"]) for r in rows if r["status"] != "finished"}
  assert bad == {("a", "failed: no luck"), ("b", "diverged")}
  assert rows[1]["score"] == "1.2" and rows[1]["last:entropy.cost"] == "0.25"
  page = (out / "index.html").read_text()
  for words in ("a on pole, value.cost = 0.3, seed 1: failed: no luck", "diverged; counts with"):
    assert words in page
  numbers = json.loads((out / "study.json").read_text())
  assert len(numbers["missing"]) == 2

  trained.clear()
  again = cli.main(["study", name, "--resamples", "5"])
  assert again == 1 and trained == ["a/pole/runs/003", "b/pole/runs/003"]
  assert cli.main(["study", write(seeds=3)]) == 2
  assert "holds other runs than my.yaml has now: choose another --out" in capsys.readouterr().err
  assert cli.main(["study", str(out / "study.csv"), "--out", "again", "--resamples", "5"]) == 0
  assert json.loads(Path("again/study.json").read_text()) == numbers


@pytest.mark.long
@pytest.mark.slow
def test_programs_are_the_runs_alone(write, capsys, monkeypatch):
  """Two agents, a setting that is a macro: as programs, stopped, and as processes."""
  Path("online.gin").write_text(
    f"{fakes.MOUNTAIN_CAR_RUNS}\ntrain.writers = (@jsonl(), @terminal())\nruns.episodes = 12\n"
    "rate = 0.1\nac_lambda.alpha = %rate\nruns.settings = {'train.seed': (1, 2)}\n"
  )
  agents = {
    "fixed": {"config": "online.gin", "bind": "tuner = @constant_step()"},
    "m": "online.gin",
  }
  name = write(
    agents=agents,
    environments={"five": ["mountain_car.max_steps = 5"]},
    settings={"rate": [0.1, 1e38], "mountain_car.cut": ["'terminal'"]},
    seeds=1,
  )
  asked = []

  @contextlib.contextmanager
  def stop_at_the_fourth_look():
    yield lambda: asked.append(None) or len(asked) == 4

  with monkeypatch.context() as patched:
    patched.setattr(platform, "stop_signals", stop_at_the_fourth_look)
    assert cli.main(["study", name, "--out", "one"]) == 1
  assert "stopped; the same command goes on" in capsys.readouterr().err
  assert not Path("one/study.csv").exists()
  assert cli.main(["study", name, "--out", "one", "--resamples", "5"]) == 0
  told = capsys.readouterr().err
  assert "program 2 of 2: m on five, 2 runs; all are done in 0:0" in told
  assert cli.main(["study", name, "--out", "one", "--resamples", "5"]) == 0
  assert "program" not in capsys.readouterr().err
  apart = ["--out", "two", "--resamples", "5", "--launcher", "processes", "--workers", "2"]
  assert cli.main(["study", name, *apart]) == 0
  assert "because of --launcher processes" in capsys.readouterr().err
  one, two = table(Path("one/study.csv")), table(Path("two/study.csv"))
  assert len(one) == 4 and {row["status"] for row in one} == {"finished", "diverged"}
  for name in (
    "agent",
    "environment",
    "setting:rate",
    "seed",
    "status",
    "score",
    "auc",
    "env_steps",
  ):
    assert [row[name] for row in one] == [row[name] for row in two], name


CROWD = f"""{fakes.MOUNTAIN_CAR_RUNS}
include 'populations/pbt.gin'
population.bounds = {{'ac_lambda.alpha': (1e-3, 1.0)}}
population.every_env_steps = 1
train.writers = (@jsonl(),)
"""


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"ac_lambda.alpha": [0.01, 2.0]}, "begins at 2.0, beyond"),
    ({"mountain_car.cut": ["'terminal'", "'bootstrap'"]}, "and cannot be: mountain_car.cut is no"),
    ({"ac_lambda.alpha": [0.1]}, "which is no number"),
    ({"ac_lambda.alpha": [0.1, 0.2]}, "looks at the runs every 2 env steps"),
  ],
)
def test_what_can_be_no_population(write, capsys, settings, message):
  Path("crowd.gin").write_text(CROWD)
  name = write(agents={"pbt": "crowd.gin"}, environments={"car": []}, settings=settings)
  assert cli.main(["study", name]) == 2
  assert message in capsys.readouterr().err and not Path("runs").exists()


ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
  "path", sorted((ROOT / "gin_configs/studies").iterdir()), ids=lambda p: p.stem
)
def test_a_packaged_study_can_be_trained_as_programs(path):
  found = file.read(f"studies/{path.stem}")
  plans = [plan for cell in found.cells for plan in study._plans(found, cell, "auto")]
  assert len(plans) > 1 and all(plan.apart is None for plan in plans)


DOCS = ROOT / "docs" / "studies.md"


@pytest.mark.parametrize("where", ["docs", "help"])
def test_studies_that_are_shown_can_be_trained(write, capsys, where):
  if where == "docs":
    (text,) = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(), re.S)
  else:
    with pytest.raises(SystemExit):
      cli.main(["study", "--help"])
    text = re.search(r"^  environments:.*?^An agent", capsys.readouterr().out, re.S | re.M)[0]
    text = textwrap.dedent(text.removesuffix("An agent"))
  Path("shown.yaml").write_text(text)
  found = file.read("shown.yaml")
  plans = [plan for cell in found.cells for plan in study._plans(found, cell, "auto")]
  assert len(plans) == 4 and len({plan.cell.bindings for plan in plans}) == 4


def row(agent, environment, score, seed=0, status="finished", **setting):
  return Row(agent, environment, tuple(setting.items()), str(seed), status, score)


def test_a_table_comes_back(tmp_path):
  rows = [
    Row(
      "a", "x, y", (("v.c", 0.1), ("t", "@x()")), "0", "finished", 1.5, -2.0, 10.0, 3.0, {"e": 1.0}
    ),
    Row("b", "é", (("v.c", 1e-5),), "s1", "failed: no", last={"e": 0.25}),
  ]
  results.write(tmp_path / "r.csv", rows)
  found, unknown = results.read(tmp_path / "r.csv")
  assert found[0][:8] == rows[0][:8] and unknown == []
  assert found[1][:5] == rows[1][:5] and math.isnan(found[1].score) and found[1].last == {"e": 0.25}


@pytest.mark.parametrize(
  "text, message",
  [
    ("agent,environment,score\na,x,1", "there is no column seed."),
    ("agent,enviroment,seed,score\na,x,0,1", "no column environment. Did you mean 'enviroment'?"),
    ("agent,environment,seed,score\na,x,0,high", "line 2: score is 'high': write a number up to"),
    ("agent,environment,seed,score\na,x,0,inf", "line 2: score is 'inf'"),
    ("agent,environment,seed,score\na,x,0,-1e305", "line 2: score is '-1e305'"),
    ("agent,environment,seed,score\na,x,0", "line 2: 3 cells for 4 columns"),
    ("agent,environment,seed,score\n,x,0,1", "line 2: agent is empty"),
    (
      "agent,environment,seed,score\na,x,0,1\n\na,x,0,2",
      "line 4: a on x, as configured, seed 0 is ",
    ),
    ("agent,environment,seed,score,setting:r\na,x,0,1,.1\na,x,0,2,0.10", "is also in line 2"),
    ("agent,environment,seed,score,score\na,x,0,1,1", "column score is there twice"),
    ("agent,environment,seed,score,,\na,x,0,1,2,3", "column without a name is there twice"),
    (
      f"agent,environment,seed,score\na,x,0,1\n{'y' * 200_000},x,0,1",
      "line 3 is no CSV: field lar",
    ),
    ("agent,environment,seed,score\né,x,0,1".encode("latin-1"), "r.csv is no UTF-8: save it as"),
    ("agent,environment,seed,score\na,x,0,1".encode("utf-16"), "r.csv is no UTF-8: save it as"),
    ("agent,environment,seed,score", "has no row"),
    ("", "there is no column agent"),
    ("agent,environment,seed,score\na,x,0,", "no run has a score yet"),
  ],
)
def test_mistakes_in_a_table(tmp_path, capsys, text, message):
  (tmp_path / "r.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
  assert cli.main(["study", str(tmp_path / "r.csv"), "--out", str(tmp_path / "out")]) == 2
  told = capsys.readouterr().err
  assert message in told and told.count("\n") == 1, told
  assert not (tmp_path / "out").exists()


def test_columns_that_are_empty_are_none(tmp_path):
  (tmp_path / "r.csv").write_text(
    "agent,,environment,seed,score,, \n\na,,x,0,1,,\na,,x,1,2,,\n,,,,,,\n"
  )
  rows, unknown = results.read(tmp_path / "r.csv")
  assert [row.score for row in rows] == [1, 2] and unknown == []


def test_settings_are_numbers_only_where_they_are_finite_and_written_as_such(tmp_path):
  texts = ["nan", "inf", "64_64", "1e-3", "0.10", "@x()"]
  lines = [f"a,x,{seed},1,{text}\n" for seed in (0, 1) for text in texts]
  (tmp_path / "r.csv").write_text("agent,environment,seed,score,setting:s\n" + "".join(lines))
  rows, _ = results.read(tmp_path / "r.csv")
  found = results.arranged(rows)
  assert [value for ((_, value),) in found.settings["a"]] == [
    "nan",
    "inf",
    "64_64",
    1e-3,
    0.1,
    "@x()",
  ]
  assert found.scores["a"].shape == (1, 6, 2)


def test_what_is_missing_is_named_and_divergence_counts():
  found = results.arranged(
    [
      *(row("a", "x", score, seed, h=1) for seed, score in enumerate((1.0, 3.0))),
      row("a", "x", 9.0, 0, "diverged", h=2),
      row("a", "x", math.nan, 1, h=2),
      row("a", "y", 5.0, 7, h=1),
      row("b", "y", 4.0, 7),
      row("b", "y", math.nan, 8, "failed: no luck"),
    ]
  )
  assert found.environments == ["x", "y"] and list(found.settings) == ["a", "b"]
  np.testing.assert_array_equal(
    found.scores["a"], [[[1, 3], [1, math.nan]], [[5, math.nan], [math.nan, math.nan]]]
  )
  assert found.missing == [
    "a on x, h = 2, seed 0: diverged; counts with the least score of its environment",
    "a on x, h = 2, seed 1: it has no score",
    "a on y, h = 1: 1 of 2 runs are not there",
    "a on y, h = 2: 2 of 2 runs are not there",
    "b on x, as configured: 2 of 2 runs are not there",
    "b on y, as configured, seed 8: failed: no luck",
  ]
  worth = statistics.evaluate(found, 5).worth
  assert worth["a"].star == 0 and worth["a"].best == [0, 0]
  assert worth["b"].star == statistics.NONE and worth["b"].best == [statistics.NONE, 0]
  assert np.isnan(worth["b"].tuned).all()


def test_grids_are_known():
  of = lambda *pairs: tuple(pairs)
  settings = [of(("r", r), ("d", d), ("c", 1)) for r in (1, 2) for d in ("x", "y")]
  assert statistics.varied(settings) == ["r", "d"]
  np.testing.assert_array_equal(statistics.grid(settings), [[0, 0], [0, 1], [1, 0], [1, 1]])
  assert statistics.grid(settings[:3]) is None
  assert statistics.grid([()]).shape == (1, 0)


HAND = {  # agent -> environment -> setting -> score of each of two seeds; percentiles: 0 and 1
  "tuned": {"x": {1: (0.0, 0.0), 2: (1.0, 1.0)}, "y": {1: (1.0, 1.0), 2: (0.0, 0.0)}},
  "steady": {"x": {1: (0.9, 0.9), 2: (0.9, 0.9)}, "y": {1: (0.9, 0.9), 2: (0.9, 0.9)}},
}


def test_the_page_holds_what_can_be_told_by_hand(tmp_path):
  rows = [
    row(agent, environment, score, seed, rate=rate)._replace(auc=score - 1, env_steps=100.0)
    for agent, environments in HAND.items()
    for environment, settings in environments.items()
    for rate, scores in settings.items()
    for seed, score in enumerate(scores)
  ]
  rows[0] = rows[0]._replace(first={"<c>": 1.0}, last={"<c>": 0.5})
  text = study_page.report(rows, tmp_path, resamples=5).splitlines()
  # Of 0, 1, 0.9, 0.9 percentiles 5 and 95 are 0.135 and 0.985: a span of 0.85.
  low, one, steady = (-0.135 / 0.85, 0.865 / 0.85, 0.765 / 0.85)
  numbers = json.loads((tmp_path / "study.json").read_text())
  worth = numbers["agents"]
  np.testing.assert_allclose(worth["tuned"]["tuned"], [one] * 3)  # seeds are equal
  np.testing.assert_allclose(worth["tuned"]["common"], [(low + one) / 2] * 3)
  np.testing.assert_allclose(worth["tuned"]["search"][0], [(low + one) / 2, one])
  assert worth["tuned"]["dimension"] == [1, 1, 1] and worth["steady"]["dimension"] == [0, 0, 0]
  np.testing.assert_allclose(worth["steady"]["sensitivity"], 0, atol=1e-12)
  assert worth["tuned"]["best settings"] == {"x": {"rate": 2}, "y": {"rate": 1}}
  tries = {(x["of"], x["match"]): x["tries"] for x in numbers["tries to match"]}
  assert tries == {
    ("tuned", "tuned"): 1,
    ("tuned", "steady"): 2,
    ("steady", "tuned"): 1,
    ("steady", "steady"): 1,
  }
  np.testing.assert_allclose(worth["steady"]["common"][0], steady)
  best = {
    (x["agent"], x["environment"]): x["score"] for x in numbers["scores at the best settings"]
  }
  assert best["tuned", "x"] == [1, 1, 1] and best["steady", "y"] == [0.9, 0.9, 0.9]
  profile = numbers["profiles"]["tuned"][0]
  assert profile[0] == 1 and profile[50] == 0.5 and profile[-1] == 0
  assert numbers["moved"] == {
    "<c>": [{"agent": "tuned", "environment": "x", "first": 1.0, "last": 0.5, "distance": 0.5}]
  }
  assert text[1].split()[:3] == ["tuned", "2", "2"]
  images = {"sensitivity", "scores", "search", "profiles", "dimension", "moved"}
  assert {path.stem for path in tmp_path.glob("*.png")} == images
  page = (tmp_path / "index.html").read_text()
  assert page.count("data:image/png;base64,") == 6 and "&lt;c&gt;" in page and "<c>" not in page
  assert not re.search(r'(src|href)="(?!data:)', page)  # nothing is loaded from elsewhere


def test_an_agent_without_settings_and_columns_of_others(tmp_path, capsys):
  (tmp_path / "r.csv").write_text(
    "\ufeffagent,environment,seed,score,note\n$a_,x,0,1,hm\n$a_,x,1,2,\nb,x,0,3,\n",
    encoding="utf-8",
  )
  out = tmp_path / "out"
  assert cli.main(["study", str(tmp_path / "r.csv"), "--out", str(out), "--resamples", "5"]) == 0
  told = capsys.readouterr()
  assert "columns that mean nothing here: note" in told.err and str(out / "index.html") in told.out
  assert re.search(r"^\$a_ +1 +2 ", told.out, re.M)
  assert not (out / "dimension.png").exists() and not (out / "moved.png").exists()


def test_a_study_whose_every_setting_lacks_a_run_has_a_page(tmp_path):
  rows = [row("a", "x", 1.0), row("a", "x", math.nan, 1, "failed: no luck")]
  text = study_page.report(rows, tmp_path, resamples=5)
  assert re.search(r"^a +1 +2 ", text, re.M)
  numbers = json.loads((tmp_path / "study.json").read_text())
  assert numbers["profiles"] == {} and numbers["thresholds"] == []
  page = (tmp_path / "index.html").read_text()
  assert "Left out: 1 settings that lack a run." in page and "failed: no luck" in page


def test_an_agent_without_a_score_in_an_environment_was_not_tried_in_vain(tmp_path):
  rows = [row("a", e, 1.0, h=h) for e in "xy" for h in (1, 2)]
  rows += [row("b", "x", score, h=h) for h, score in ((1, 0.0), (2, 0.5))]
  rows += [row("c", e, 0.0, h=h) for e in "xy" for h in (1, 2)]
  study_page.report(rows, tmp_path, resamples=5)
  table = (tmp_path / "index.html").read_text().partition("tries of")[2].partition("</table>")[0]
  cells = [re.findall("<td>(.*?)</td>", line) for line in table.splitlines()]
  # Tries of each agent to match a, b and c.
  assert cells[1:] == [
    ["a", "1", "—", "1"],
    ["b", "—", "—", "—"],
    ["c", "more than 2", "—", "1"],
  ]


def test_settings_read_as_they_are():
  assert results.described((("g", 0.99999), ("n", 12345.0), ("t", "@x()"))) == (
    "g = 0.99999, n = 12345, t = @x()"
  )


def test_no_score_is_a_mistake():
  with pytest.raises(UserError, match="no run has a score yet"):
    results.arranged([row("a", "x", math.nan)])

"""Sweeps: W&B's files and agents, points as one program and as processes, failures, resuming."""

import contextlib
import csv
import datetime
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import fakes
import numpy as np
import pytest
import yaml
from test_logging import FakeWandB
from wandb.sdk.launch.sweeps import utils as wandb_agent

from selftune.core import config
from selftune.core import train as training
from selftune.core.api.errors import UserError
from selftune.core.api.subprocesses import python
from selftune.core.commands import cli
from selftune.core.commands.sweep import experiment_of
from selftune.core.experiment import IndependentRuns
from selftune.core.machine import platform
from selftune.core.record import plotting
from selftune.core.sweeps import bar, document, launch, sweep
from selftune.core.sweeps import file as sweep_file
from selftune.core.sweeps.file import Outcome, Points, bindings
from selftune.core.sweeps.library import LIMITS
from selftune.core.sweeps.outcomes import outcome_of, unlogged
from selftune.core.sweeps.point import DIVERGED
from selftune.core.sweeps.results import draw, print_table, ranked
from selftune.core.sweeps.sweep import apart_because

CONFIG = f"""{fakes.MOUNTAIN_CAR_RUNS}
train.writers = (@jsonl(), @terminal())
runs.episodes = 12
"""
GRID = {
  "ac_lambda.alpha": {"values": [1e38, 0.01, "1e-1"]},  # written as 1e-1
  "train.seed": {"values": [3, 8]},
}
SELFTUNE = python(
  "import sys; from selftune.core.commands.cli import main; sys.exit(main(sys.argv[1:]))"
)


def read(name):
  """The sweep in a file, as the command reads it."""
  return sweep_file.read(name, experiment_of)


pytestmark = pytest.mark.usefixtures("compiled_once")


@pytest.fixture
def file(tmp_path, monkeypatch):
  """Writes a sweep file."""
  monkeypatch.setattr(plotting, "plot", lambda *args: None)
  monkeypatch.chdir(tmp_path)
  Path("online.gin").write_text(CONFIG)

  def write(experiment="online.gin", more=(), method="grid", parameters=GRID, **entries):
    command = ["selftune", "train", experiment, "${args_no_hyphens}", *more]
    found = {"method": method, "parameters": parameters, "command": command, **entries}
    Path("sweep.yaml").write_text(yaml.safe_dump(found))
    return "sweep.yaml"

  return write


@pytest.fixture
def trained(monkeypatch):
  """The points that were trained, by processes that only write what one leaves behind."""
  calls = []

  def train(workdir, values):
    calls.append((workdir.name, values))
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "log.txt").write_text("Traceback ...\nRunError: no luck\n")
    if values["value.cost"] in ENDS:
      return ENDS[values["value.cost"]]
    rows = [{"env_steps": 1, "episode_return": 0.0}, {"env_steps": 2, "wall_time": 7.0}]
    rows[1]["episode_return"] = -((float(values["value.cost"]) - 0.5) ** 2)
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (workdir / "done").touch()
    return 0

  monkeypatch.setattr(sweep, "Processes", fakes.processes(train))
  return calls


ENDS = {"0.3": 1, "0.2": DIVERGED}  # exit codes
COSTS = {"value.cost": {"values": [0.1, 0.3, 0.4]}}


def table(out):
  with (out / "sweep.csv").open() as file:
    return list(csv.DictReader(file))


@pytest.mark.parametrize(
  "name, count", [("sweeps/metatrace_mountain_car", 24), ("sweeps/catch_stac_discount", 6)]
)
def test_a_packaged_sweep_is_the_same_here_and_by_an_agent(name, count, tmp_path):
  found = read(name)
  points = Points(found, tmp_path / "points.jsonl")
  points.add(points.further())
  assert len(points.asked) == count == len({str(point) for point in points.asked})
  for point in (points.asked[0], points.asked[-1]):
    given = wandb_agent.create_sweep_command_args(
      {"args": {name: {"value": value} for name, value in point.items()}}
    )
    program, *words = [
      word
      for part in wandb_agent.create_sweep_command(list(found.config["command"]))
      for word in (given["args_no_hyphens"] if part == "${args_no_hyphens}" else [part])
    ]
    assert program == "selftune"
    parsed = cli.parse(words)
    by_agent = config.load(parsed.config, parsed.bind)
    here = config.load(found.experiment, (*found.bindings, *bindings(point)))
    assert here.root == by_agent.root
    flat = {name.split("/")[-1]: value for name, value in here.flat.items()}
    assert [flat[name.replace("gamma", "leaky_vtrace.gamma")] for name in point] == [
      *point.values()
    ]


def test_values_are_written_as_in_gin():
  point = {"a.x": 1e-05, "a.y": 8, "a.z": True, "a.n": None, "a.r": "@fixed()", "a.s": "'text'"}
  assert bindings(point) == [
    *("a.x=1e-05", "a.y=8", "a.z=True", "a.n=None", "a.r=@fixed()", "a.s='text'"),
  ]
  given = ("agent.metaopt=@fixed()", "envpool.task='CartPole-v1'", "value.cost=1e-05")
  loaded = config.load("experiments/cartpole_stac", (*given[1:], "metagradient.tune=()"))
  assert loaded.flat["value.cost"] == 1e-05 and loaded.flat["envpool.task"] == "CartPole-v1"


def test_bindings_may_follow_the_configuration():
  parsed = cli.parse(["train", "x.gin", "a.b=1", "a.c='t'", "--bind", "a.b = 2"])
  assert parsed.bind == ["a.b = 2", "a.b=1", "a.c='t'"]


@pytest.mark.slow
def test_points_as_one_program_equal_the_points_alone(file, tmp_path, monkeypatch, capsys):
  out = tmp_path / "out"
  wandb = FakeWandB(monkeypatch)
  writers = ["--bind=train.writers = (@jsonl(), @terminal(), @wandb())"]
  asked = []

  @contextlib.contextmanager
  def stop_at_the_fourth_look():
    yield lambda: asked.append(None) or len(asked) == 4

  with monkeypatch.context() as patched:
    patched.setattr(platform, "stop_signals", stop_at_the_fourth_look)
    assert cli.main(["sweep", file(more=writers), "--out", str(out)]) == 1
  told = capsys.readouterr().err
  assert "6 points as one program" in told and "the same command goes on" in told
  assert not (out / "sweep.csv").exists()
  assert cli.main(["sweep", file(more=writers), "--out", str(out)]) == 0
  runs = [options for _, options in wandb.opened]
  assert len(runs) == 12 and len({run["id"] for run in runs}) == 6  # one a point, and resumed
  assert [run["id"] for run in runs[:6]] == [run["id"] for run in runs[6:]]
  assert [(r["config"]["ac_lambda.alpha"], r["config"]["train.seed"]) for r in runs[:6]] == [
    *((1e38, 3), (1e38, 8), (0.01, 3), (0.01, 8), (0.1, 3), (0.1, 8)),
  ]
  assert [Path(run["dir"]).name for run in runs[:6]] == [f"{k:03d}" for k in range(6)]
  single = ("ac_lambda.alpha = 0.01", "train.seed = 8")
  training.train("online.gin", single, tmp_path / "alone")
  alone, workdir = fakes.rows(tmp_path / "alone", "episodes"), out / "runs" / "003"
  assert len(alone) == 12
  assert fakes.rows(workdir, "episodes") == [
    {name: value for name, value in row.items() if name != "run"} for row in alone
  ]
  clock = {"wall_time", "steps_per_second", "queue_wait", "env_wait", "act_time"}
  rows, expected = fakes.rows(workdir), fakes.rows(tmp_path / "alone")
  for row, other in zip(rows, expected, strict=True):
    names = row.keys() - clock
    assert names == other.keys() - clock and {"env_steps", "beta/mean", "h_norm"} <= names
    np.testing.assert_allclose(
      [row[name] for name in names], [other[name] for name in names], rtol=1e-5, atol=1e-6
    )
  ordered = table(out)
  assert [row["status"] for row in ordered] == ["finished"] * 4 + ["diverged"] * 2
  assert {row["point"] for row in ordered[:4]} == {"2", "3", "4", "5"}
  assert (out / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_why_points_are_processes():
  root = config.load("experiments/metatrace_mountain_car", ("runs.settings = {}",)).root
  grid = config.load("experiments/metatrace_mountain_car").root
  catch = config.load("experiments/catch_stacx").root
  one = config.load(
    "experiments/metatrace_mountain_car", ("runs.settings = {}", "runs.repeats = 1")
  ).root
  ways = [
    (one, {"metatrace.mu": 0.1, "train.seed": 1}, {}, None),
    (one, {"metatrace.mu": "1e-4"}, {}, None),
    (one, {"metatrace.mu": "@x()"}, {}, "metatrace.mu is '@x()'"),
    (one, {"metatrace.normalised": False}, {}, "metatrace.normalised is no number"),
    (one, {"tuner": "@sid()"}, {}, "tuner is no number"),
    (one, {"metatrace.mu": 0.1}, {"bayes": True}, "bayes chooses a point by the results"),
    (one, {"metatrace.mu": 0.1}, {"launcher": "ray"}, "of --launcher ray"),
    (root, {"metatrace.mu": 0.1}, {}, "a point is several runs"),
    (grid, {"metatrace.mu": 0.1}, {}, "a point is several runs"),
    (catch, {"entropy.cost": 0.1}, {}, "train.runtime is @lockstep()"),
  ]
  for root, point, options, why in ways:
    fields = {name: (name,) for name in point}
    found = apart_because(root, [point], fields, **{"bayes": False, **options})
    assert found is None if why is None else found is not None and why in found


def test_a_point_that_fails_stops_no_other_and_is_tried_again(file, trained, tmp_path, capsys):
  name, out = file("experiments/catch_stacx", parameters=COSTS), tmp_path / "out"
  assert cli.main(["sweep", name, "--out", str(out), "--workers", "2"]) == 1
  assert [call[0] for call in trained] == ["000", "001", "002"]
  told = capsys.readouterr()
  assert "a process a point, 2 at a time, because train.runtime is @lockstep()" in told.err
  assert "point 1 (value.cost=0.3) failed: RunError: no luck (all of it: " in told.err
  rows = table(out)
  assert [(row["value.cost"], row["status"]) for row in rows] == [
    *(("0.4", "finished"), ("0.1", "finished"), ("0.3", "failed")),
  ]
  assert float(rows[0]["episode_return"]) == pytest.approx(-0.01) and rows[0]["seconds"] == "7.0"
  assert "0.4" in told.out and "sweep.csv" in told.out

  trained.clear()
  assert cli.main(["sweep", name, "--out", str(out)]) == 1
  assert [call[0] for call in trained] == ["001"]
  other = file("experiments/catch_stacx", parameters={"value.cost": {"values": [0.1]}})
  assert cli.main(["sweep", other, "--out", str(out)]) == 2
  assert "holds another sweep" in capsys.readouterr().err


def test_an_edited_configuration_is_another_sweep(file, trained, capsys):
  name = file("my.gin", parameters={"value.cost": {"values": [0.1]}})
  text = "include 'experiments/catch_stacx.gin'\nentropy.cost = "
  Path("my.gin").write_text(f"{text}0.1\n")
  assert cli.main(["sweep", name, "--out", "out"]) == 0
  Path("my.gin").write_text(f"{text}0.2\n")
  assert cli.main(["sweep", name, "--out", "out"]) == 2
  assert "out holds another sweep than sweep.yaml: choose another --out" in capsys.readouterr().err
  kept = Path("out/sweep.json")
  says = json.loads(kept.read_text())
  del says["configuration"]  # as before it was kept
  kept.write_text(json.dumps(says, sort_keys=True))
  assert cli.main(["sweep", name, "--out", "out"]) == 0
  assert json.loads(kept.read_text())["configuration"]["entropy.cost"] == "0.2"


def test_a_point_that_diverges_has_not_failed(file, trained, tmp_path, capsys):
  parameters = {"value.cost": {"values": [0.1, 0.2]}}
  name, out = file("experiments/catch_stacx", parameters=parameters), tmp_path / "out"
  assert cli.main(["sweep", name, "--out", str(out), "--workers", "2"]) == 0
  assert "point 1 (value.cost=0.2) diverged" in capsys.readouterr().err
  assert [row["status"] for row in table(out)] == ["finished", "diverged"]


def test_a_metric_that_no_point_logs_is_said_once(file, trained, capsys):
  costs = {"value.cost": {"values": [0.1, 0.4]}}
  said = (
    "selftune: point 0 has finished, and logs no episode_retrun. Did you mean 'episode_return'?"
  )
  for metric, points in (("episode_retrun", 2), ("episode_return", 0)):
    wanted = {"name": metric, "goal": "maximize"}
    name = file("experiments/catch_stacx", parameters=costs, metric=wanted)
    for trained_now in (points, 0):  # then as all have ended in an earlier start
      trained.clear()
      assert cli.main(["sweep", name, "--out", "out"]) == 0
      assert len(trained) == trained_now
      assert capsys.readouterr().err.count(said) == (metric == "episode_retrun")


def test_no_episode_has_ended(tmp_path):
  point = tmp_path / "runs" / "000"
  point.mkdir(parents=True)
  (point / "metrics.jsonl").write_text('{"env_steps": 4, "episodes": 0, "loss": null}\n')
  outcomes = [Outcome({}, "finished")]
  said = unlogged(tmp_path, outcomes, "episode_return")
  assert said == "point 0 has finished, and logs no episode_return: no episode has ended in it."
  assert not unlogged(tmp_path, outcomes, "loss")  # which is not a finite number
  assert not unlogged(tmp_path, [Outcome({}, "diverged")], "x")
  assert not unlogged(tmp_path, [*outcomes, Outcome({}, "finished", 1.0)], "x")


def test_scores_of_evaluations_are_metrics_as_in_wandb(tmp_path):
  (tmp_path / "done").touch()
  (tmp_path / "metrics.jsonl").write_text('{"env_steps": 4, "mean": 1.0, "wall_time": 3.0}\n')
  rows = ({"env_steps": 0, "mean": 5.0}, {"env_steps": 3, "mean": 7.0})
  (tmp_path / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  found = outcome_of(tmp_path, {}, "eval/mean")
  assert found == Outcome({}, "finished", 7.0, 4, 3.0)


def test_bayes_does_not_search_without_a_metric(file, trained, capsys):
  cost = {"value.cost": {"min": 0.0, "max": 1.0}}
  of = {"method": "bayes", "parameters": cost, "run_cap": 3}
  name = file("experiments/catch_stacx", **of, metric={"name": "eval/mena"})
  for points in (1, 0):
    trained.clear()
    assert cli.main(["sweep", name, "--out", "out"]) == 2
    assert len(trained) == points
    assert (
      "bayes learns from a metric, and no point has logged eval/mena" in capsys.readouterr().err
    )
  assert cli.main(["sweep", file("experiments/catch_stacx", **of), "--out", "out"]) == 0
  assert len(trained) == 2 and len(table(Path("out"))) == 3


def test_no_option_of_training_is_dropped():
  with pytest.raises(UserError, match="not --process-id"):
    experiment_of(["train", "experiments/catch_stacx", "--process-id", "0"])


@pytest.mark.slow
def test_bayes_asks_again_after_every_result(file, trained, tmp_path):
  cost = {"value.cost": {"min": 0.0, "max": 1.0}}
  for cap in (2, 3):  # a higher cap goes on
    name = file("experiments/catch_stacx", method="bayes", parameters=cost, run_cap=cap)
    assert sweep.sweep(read(name), tmp_path / "out")
    assert [name for name, _ in trained] == ["000", "001", "002"][:cap]
  assert len({values["value.cost"] for _, values in trained}) == 3


def test_random_points_are_the_same_every_time(file, tmp_path):
  rate = {"a.rate": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1.0}}
  found = read(file(method="random", parameters=rate, run_cap=4))
  asked = []
  for name in ("one", "two"):
    points = Points(found, tmp_path / name)
    points.add(points.further())
    asked.append(Points(found, tmp_path / name).asked)  # as it was kept
  assert asked[0] == asked[1] and len(asked[0]) == 4
  assert all(type(point["a.rate"]) is float and 1e-4 < point["a.rate"] < 1 for point in asked[0])


def test_an_ended_program_takes_no_more_points(file, tmp_path, capsys):
  rate = {"ac_lambda.alpha": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1.0}}
  (tmp_path / "out" / "runs" / "000").mkdir(parents=True)
  for ended in ("out", "out/runs/000"):
    (tmp_path / ended / "done").touch()
  name = file(method="random", parameters=rate, run_cap=2)
  assert cli.main(["sweep", name, "--out", "out"]) == 2
  assert "out holds fewer points, trained as one program that has ended" in capsys.readouterr().err


def test_the_metric_and_its_goal(file):
  loss = {"name": "loss", "goal": "minimize"}
  found = read(file(metric=loss))
  outcomes = [
    Outcome({}, "failed", None),
    Outcome({}, "finished", float("nan")),
    *(Outcome({}, "finished", value) for value in (3.0, 1.0, 2.0)),
    Outcome({}, "diverged", 0.0),
  ]
  order = [outcomes.index(outcome) for outcome in ranked(found, outcomes)]
  assert order == [3, 4, 2, 1, 5, 0]
  assert not read(file(metric={"name": "loss"})).maximize  # as W&B has it
  found = read(file())
  assert found.metric == "episode_return" and found.maximize


def test_plots():
  found = sweep_file.Sweep(Path(), {"metric": {"name": "m"}}, "", ())
  outcomes = [
    Outcome({"a.x": x, "a.y": y}, "finished", x * y) for x in (0.01, 0.1, 1.0) for y in (1, 2)
  ]
  panels = draw(found, [*outcomes, Outcome({"a.x": 1.0, "a.y": 3}, "failed")]).axes
  assert [axes.get_xscale() for axes in panels] == ["log", "linear"]
  assert [list(line.get_ydata()) for line in panels[0].lines][:2] == [
    [0.01, 0.1, 1],
    [0.02, 0.2, 2],
  ]
  assert [tick.get_text() for tick in panels[0].get_xticklabels()] == ["0.01", "0.1", "1"]
  texts = [Outcome({"a.r": text, "a.z": 0}, "finished", 1.0) for text in ("@b()", "@a()")]
  assert len(draw(found, texts).axes) == 1
  odd = [Outcome({"a.r": value}, "finished", 1.0) for value in (1.0, None, [1, 2], [1, 2])]
  (axes,) = draw(found, odd).axes
  assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1.0", "None", "[1, 2]"]


def test_values_are_shown_with_the_digits_that_tell_them_apart(capsys):
  found = sweep_file.Sweep(Path(), {"metric": {"name": "m"}}, "", ())
  values = (0.99999, 0.999992, 12345.0)
  outcomes = [Outcome({"a.x": x, "a.y": y}, "finished", x) for x in values for y in (1, 2)]
  wanted = ["0.99999", "0.999992", "12345"]
  drawn = draw(found, outcomes).axes
  assert [tick.get_text() for tick in drawn[0].get_xticklabels()] == wanted
  assert [text.get_text() for text in drawn[1].get_legend().get_texts()] == [
    f"a.x = {x}" for x in wanted
  ]
  print_table(["a.x"], [[x] for x in (*values, None)])
  assert capsys.readouterr().out.split() == ["a.x", *wanted]


WRONG = {
  "absent": ("sweeps/catch_stac_discont", "Did you mean 'sweeps/catch_stac_discount'"),
  "method": ({"method": "gird"}, "gird"),
  "uncapped": ({"method": "random"}, "method random never ends: write run_cap"),
  "command": ({"command": ["python", "train.py", "${args}"]}, "write command: [selftune, train"),
  "binding": ({"parameters": {"metatrace.nu": {"value": 1}}}, "'metatrace' has no parameter 'nu'"),
  "text": ({"parameters": {"tuner": {"value": "sid"}}}, "a component is written @sid()"),
  "experiment": ({"command": ["train", "x/y", "${args_no_hyphens}"]}, "no gin file or experiment"),
  "metric": ({"metric": {"goal": "maximize"}}, "write metric: {name: episode_return"),
  "metric's name": ({"metric": "episode_return"}, "write metric: {name: episode_return"),
  "list": ({"parameters": ["metatrace.mu"]}, "write parameters: {NAME: {values: [1, 2]}}"),
  "cap": ({"run_cap": "5"}, "run_cap is a number of points"),
  "options": (
    {"command": ["train", "online.gin", "${args_no_hyphens}", "--init-from", "x", "--workdir=y"]},
    "takes an experiment and bindings of the command, and not --init-from, --workdir",
  ),
  "no such option": (
    {"command": ["train", "online.gin", "${args_no_hyphens}", "--sed", "1"]},
    "sweep.yaml: unrecognized arguments: --sed 1",
  ),
  "empty": ({"parameters": {}}, "a sweep has method, parameters and command"),
  "no cap": ({"run_cap": True}, "run_cap is a number of points"),
  "cap of none": ({"run_cap": 0}, "run_cap is a number of points"),
  "later point": (
    {"parameters": {"ac_lambda.alpha": {"values": [0.1, 0.2, -0.3]}}},
    "sweep.yaml: point 2: --bind 'ac_lambda.alpha=-0.3': ac_lambda.alpha takes float",
  ),
  "later point of random": (
    {"method": "random", "run_cap": 50, "parameters": {"ac_lambda.alpha": {"min": -0.1, "max": 1}}},
    "ac_lambda.alpha takes float",
  ),
  "variable": (
    {"command": ["train", "online.gin", "${args_no_hyphens}", "${envvar:NO_SUCH}"]},
    "command: ${envvar:NO_SUCH}: the environment has no variable NO_SUCH",
  ),
  "small variable": (
    {"command": ["train", "online.gin", "${args_no_hyphens}", "--bind=a.b = '${envvar:path}'"]},
    "selftune sweep knows ${args_no_hyphens} and ${envvar:NAME}, in capital letters, and not",
  ),
  "macro": (
    {"command": ["train", "online.gin", "${args_no_hyphens}", "${args}"]},
    "in capital letters, and not ${args}",
  ),
  "grid too large": (
    {"parameters": {f"a.b{k}": {"values": [*range(100)]} for k in range(5)}},
    "a grid of more than 100,000 points: give fewer values",
  ),
  "steps too small": (
    {"parameters": {"a.b": {"distribution": "q_uniform", "min": 0.0, "max": 1e299, "q": 1e-99}}},
    "a grid of more than 100,000 points",
  ),
  "long": (
    {"parameters": {"ac_lambda.alpha": {"value": "'" + 5000 * "x" + "'"}}},
    "xxx [...] xxx",
  ),
}


@pytest.mark.parametrize("given, message", WRONG.values(), ids=WRONG)
def test_mistakes_create_nothing(file, tmp_path, capsys, given, message):
  name = given
  if not isinstance(given, str):
    name = file()
    Path(name).write_text(yaml.safe_dump(yaml.safe_load(Path(name).read_text()) | given))
  assert cli.main(["sweep", name]) == 2
  told = capsys.readouterr().err
  assert message in told and told.count("\n") == 1 and len(told) < 700, told
  assert not Path("runs").exists()


@pytest.mark.parametrize(
  "method, spec, message",
  [
    ("grid", {"values": []}, "{'values': []} is none that W&B knows"),
    ("grid", {"values": 3}, "{'values': 3} is none that W&B knows"),
    ("grid", {"vlues": [1, 2]}, "{'vlues': [1, 2]} is none that W&B knows"),
    ("grid", {"min": 0.1, "max": 0.2}, "disallowed type with grid search"),
    ("random", {"min": 2, "max": 1}, "min 2 is not less than max 1"),
    ("random", {"min": "some", "max": 1}, "min is 'some', which is no finite number"),
    ("random", {"min": 0.0, "max": float("inf")}, "max is inf, which is no finite number"),
    ("random", {"min": 0, "max": 10**400}, "which is no finite number"),
    ("random", {"min": True, "max": 2}, "min is True, which is no finite number"),
    ("random", {"distribution": "unifrm", "min": 0, "max": 1}, "is none that W&B knows"),
    ("random", {"distribution": "log_uniform_values", "min": 0, "max": 1}, LIMITS),
    ("random", {"distribution": "normal", "mu": 0, "sigma": 0}, "nan was drawn from"),
    ("random", {"values": [1, 2], "probabilities": [0.9, 0.3]}, "do not sum to 1"),
    ("bayes", {"values": [1, 2], "probabilities": [0.9, 0.1]}, "bayes knows no probabilities"),
    ("grid", {"parameters": {"x": {"value": 1}}}, "nested parameters are no bindings"),
    ("grid", {"value": datetime.date(2020, 1, 1)}, "write what is no number as text"),
    ("grid", [1, 2], "[1, 2] is no parameter: write {values: [1, 2]}"),
    ("grid", None, "None is no parameter"),
  ],
)
def test_what_the_library_refuses_is_one_line_that_names_the_parameter(
  file, capsys, method, spec, message
):
  good = {"train.seed": {"values": [1, 2]}}
  name = file(method=method, parameters=good | {"ac_lambda.alpha": spec}, run_cap=3)
  assert cli.main(["sweep", name]) == 2
  told = capsys.readouterr().err
  assert message in told and "sweep.yaml: " in told and "ac_lambda.alpha" in told, told
  assert told.count("\n") == 1 and "train.seed" not in told, told
  assert not Path("runs").exists()


def test_the_library_needs_something_to_search(file):
  constant = {"value.cost": {"value": 1}}
  found = read(file(method="bayes", parameters=constant, run_cap=3))
  with pytest.raises(UserError, match=r"sweep.yaml: Need at least one searchable parameter"):
    Points(found).further()


def test_numbers_need_no_point(tmp_path):
  path = tmp_path / "numbers.yaml"
  path.write_text("[1e-5, -2.5E+3, .5e3, +5e0, 1_0e2, 1.0e-5, 7, 1e400, '1e-5', 1e, e5, 1e5x]")
  assert document.read(path) == [
    *(1e-5, -2500.0, 500.0, 5.0, 1000.0, 1e-5, 7, float("inf")),
    *("1e-5", "1e", "e5", "1e5x"),
  ]
  path.write_text("\ufeffa: {min: 1e-5, max: 1e-2}\n", encoding="utf-8")
  assert document.read(path) == {"a": {"min": 1e-5, "max": 1e-2}}


LAUGHS = "\n".join(
  ["a0: &a0 [1, 2]", *(f"a{k}: &a{k} [{', '.join(9 * [f'*a{k - 1}'])}]" for k in range(1, 12))]
)
MERGES = "\n".join(
  ["a0: &a0 {x: 1}", *(f"a{k}: &a{k} {{<<: [*a{k - 1}, *a{k - 1}]}}" for k in range(1, 40))]
)


@pytest.mark.parametrize(
  "text, message",
  [
    (LAUGHS, "more than 100,000 entries"),
    (MERGES, "more than 100,000 entries"),
    ("a: &a [*a]", "an alias within itself"),
    ("a: {b: 1}\nc: 2\na: {b: 3}", "'a' is there twice, also in line 3"),
    (500 * "[", "cannot read"),
    ("a: 2020-13-45", "month must be in 1..12"),
    ("a: !!bool maybe", "'maybe'"),
    ("a: [1", "expected ',' or ']'"),
    ("a: !!python/name:os.system", "could not determine a constructor"),
    ("a: !" + 5000 * "x" + " 1", "[...] xxx"),
  ],
)
def test_files_that_are_refused(tmp_path, text, message):
  path = tmp_path / "s.yaml"
  path.write_text(text)
  with pytest.raises(UserError) as refused:
    document.read(path)
  assert message in str(refused.value) and "\n" not in str(refused.value)
  assert len(str(refused.value)) < 700


def test_aliases_may_be_used(tmp_path):
  path = tmp_path / "s.yaml"
  path.write_text("a: &a {x: 1, y: [2]}\nb: {<<: *a, z: *a}\n")
  inner = {"x": 1, "y": [2]}
  assert document.read(path) == {"a": inner, "b": inner | {"z": inner}}


def test_environment_variables_of_the_command(file, monkeypatch):
  monkeypatch.setenv("PROJ_1", "mine")
  more = ["--bind=wandb.project = '${envvar:PROJ_1}-${envvar:PROJ_1}'"]
  found = read(file(more=more))
  assert found.bindings == ("wandb.project = 'mine-mine'",)
  by_agent = wandb_agent.create_sweep_command(["selftune", "train", "x", *more])
  assert by_agent[3:] == ["--bind=wandb.project = 'mine-mine'"] == found.config["command"][4:]


@pytest.mark.parametrize("out", ["", "online.gin", "online.gin/x"])
def test_an_out_that_cannot_be_written(file, capsys, out):
  assert cli.main(["sweep", file(), "--out", out]) == 2
  told = capsys.readouterr().err
  assert "--out" in told and told.count("\n") == 1
  assert {path.name for path in Path().iterdir()} == {"online.gin", "sweep.yaml"}


def test_a_new_python_takes_no_library_from_the_current_folder(tmp_path):
  (tmp_path / "yaml.py").write_text("raise SystemExit('not yaml')")
  command = python("import selftune.core, sys, yaml; print(yaml.safe_load(sys.argv[1]))")
  done = subprocess.run([*command, "[1]"], cwd=tmp_path, capture_output=True, text=True)
  assert (done.stdout, done.stderr) == ("[1]\n", "")


def test_a_long_name_is_no_sweep(capsys):
  assert cli.main(["sweep", 300 * "x"]) == 2
  assert "no sweep" in capsys.readouterr().err


def test_what_a_failed_point_said_is_cut(tmp_path, capsys):
  log, outcome = tmp_path / "log.txt", Outcome({}, "failed")
  log.write_text("Traceback ...\nselftune: no " + 5000 * "x" + " luck\n\n")
  with bar.begin(2) as display:
    display.print(bar.ended("point 0", outcome, log, "m"))
    display.print(bar.ended("point 1 (a.b=1)", outcome, tmp_path / "absent.txt", "m"))
  first, second = capsys.readouterr().err.splitlines()
  assert first.startswith("selftune: point 0 failed") and len(first) < 1000
  assert "failed: no xxx" in first and f"xxx luck (all of it: {log})" in first
  assert second.startswith("selftune: point 1 (a.b=1) failed: it said nothing")


def test_missing_libraries_are_named(file, monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, "ray", None)
  assert cli.main(["sweep", file(), "--launcher", "ray"]) == 2
  assert "pip install 'selftune[ray]'" in capsys.readouterr().err
  assert not Path("runs").exists()
  monkeypatch.setitem(sys.modules, "sweeps", None)
  assert cli.main(["sweep", file(), "--out", "new"]) == 2
  assert "pip install 'selftune[sweep]'" in capsys.readouterr().err


def test_a_run_of_an_agent_has_a_workdir_of_its_own(file, monkeypatch, capsys):
  file()
  seen = []
  monkeypatch.setattr(
    training, "train", lambda *args: seen.append(args) or training.Progress(done=True)
  )
  monkeypatch.setenv("WANDB_RUN_ID", "abc123")
  assert cli.main(["train", "online.gin"]) == 0
  monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
  assert cli.main(["train", "online.gin", "metatrace.mu=0.5"]) == 0
  assert [str(args[2]) for args in seen] == ["runs/online_seed0", "runs/online_abc123"]
  assert seen[1][1] == ["metatrace.mu=0.5"]


def test_settings_taken_together():
  settings = {"a.x": (1.0, 2.0), "train.seed": (7, 7)}
  assert IndependentRuns(settings=settings, paired=True).grid(0) == ([7, 7], {"a.x": [1.0, 2.0]})
  assert IndependentRuns(settings=settings).grid(0) == ([7] * 4, {"a.x": [1.0, 1.0, 2.0, 2.0]})
  assert IndependentRuns(settings={"a.x": (1.0,)}, repeats=2).grid(5)[0] == [5, 6]
  for wrong in ({}, {"a.x": (1.0,), "a.y": (1.0, 2.0)}):
    with pytest.raises(ValueError, match="equally many values"):
      IndependentRuns(settings=wrong, paired=True)


def test_a_folder_is_of_one_sweep_at_a_time(tmp_path, monkeypatch):
  monkeypatch.setattr(sweep, "GRACE", 0.3)
  with sweep.alone(tmp_path):
    with pytest.raises(UserError, match=r"is in use by process .*: another sweep, or points"):
      with sweep.alone(tmp_path):
        pass
  with sweep.alone(tmp_path):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["processes", "ray"])
def test_a_killed_sweep_leaves_no_process_and_the_same_command_goes_on(file, tmp_path, launcher):
  """Points as processes: kill -9 of the sweep in the middle of its points.

  They find a module beside the gin file, and take no file of the current folder for a library.
  """
  if launcher == "ray":
    pytest.importorskip("ray")
  steps = ["--bind=train.total_env_steps = 30_000", "--bind=train.checkpoint_seconds = 0.0"]
  steps.append("--bind=train.log_seconds = 0.1")
  Path("gins").mkdir()
  Path("gins/mine.gin").write_text("include 'experiments/catch_stacx.gin'\nimport beside\n")
  Path("gins/beside.py").touch()
  Path("optax.py").write_text("raise SystemExit('not the library')")
  name = file("gins/mine.gin", steps, parameters={"train.seed": {"values": [0, 1]}})
  out = tmp_path / "out"
  command = [*SELFTUNE, "sweep", name, "--out", str(out), "--workers", "2", "--launcher", launcher]
  killed = subprocess.Popen(command, stderr=subprocess.PIPE)
  fakes.wait_for(lambda: _begun(out) == 2, 300)
  os.kill(killed.pid, signal.SIGKILL)
  killed.wait()
  fakes.wait_for(lambda: not _processes(out), 60)
  assert not list(out.glob("runs/*/done"))
  done = subprocess.run(command, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert [row["status"] for row in table(out)] == ["finished"] * 2
  for log in out.glob("runs/*/log.txt"):
    assert log.read_text().count("resuming at update") == 1


def _begun(out):
  """Points that have logged some rows."""
  return sum(len(fakes.rows(p.parent)) > 3 for p in out.glob("runs/*/metrics.jsonl"))


def _processes(out):
  found = Counter()
  for path in Path("/proc").glob("[0-9]*/cmdline"):
    with contextlib.suppress(OSError):
      found[str(out) in path.read_text()] += 1
  return found[True]


@pytest.mark.long
@pytest.mark.slow
def test_sigterm_saves_every_point_under_way(file, tmp_path):
  often = ["--bind=train.log_seconds = 0.1"]
  name = file("experiments/catch_stacx", often, parameters={"train.seed": {"values": [0, 1]}})
  out = tmp_path / "out"
  command = [*SELFTUNE, "sweep", name, "--out", str(out), "--workers", "2"]
  process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
  fakes.wait_for(lambda: _begun(out) == 2, 300)
  process.terminate()
  _, told = process.communicate(timeout=90)
  assert process.returncode == 1 and "the same command goes on" in told
  assert len(list(out.glob("runs/*/checkpoints/*"))) == 2 and not _processes(out)


@pytest.mark.slow
def test_ray_trains_points_and_survives_one_that_fails(file, tmp_path):
  pytest.importorskip("ray")
  points = {"train.num_envs": {"values": [8, 7, 4]}}  # 7 are not two pools
  steps = ["--bind=train.total_env_steps = 160", "--bind=train.seed = 1"]
  name = file("experiments/catch_stacx", steps, parameters=points)
  out = tmp_path / "out"
  command = [*SELFTUNE, "sweep", name, "--out", str(out), "--workers", "2"]
  done = subprocess.run([*command, "--launcher", "ray"], capture_output=True, text=True)
  assert done.returncode == 1, done.stderr
  assert [row["status"] for row in table(out)] == ["finished", "finished", "failed"]
  assert "failed: train.num_envs = 7 is not divisible" in done.stderr


@pytest.mark.slow
def test_a_task_of_ray_runs_in_the_folder_of_the_sweep(tmp_path, monkeypatch):
  """Wherever the worker is: a cluster's are where it was started."""
  here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
  here.mkdir(), elsewhere.mkdir()
  (here / "mine.gin").write_text("train.seed = 'no'\n")
  monkeypatch.chdir(elsewhere)
  for number, (folder, said) in enumerate(
    [
      (here, "mine.gin: train.env must be given"),
      (tmp_path / "absent", "no gin file or experiment"),
    ]
  ):
    task = launch.Task("mine.gin", tmp_path / f"{number}", [])
    assert launch._train(task, str(folder)) == 1
    log = (tmp_path / f"{number}" / "log.txt").read_text()
    assert log.startswith(f"selftune: {said}") and log.count("\n") == 1, log


@pytest.mark.slow
def test_a_cluster_that_does_not_answer(file, monkeypatch, capsys):
  pytest.importorskip("ray")
  monkeypatch.setattr(launch, "JOIN", 5.0)
  with socket.create_server(("127.0.0.1", 0)) as deaf:
    address = f"127.0.0.1:{deaf.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert cli.main(["sweep", file(), "--launcher", "ray", "--out", "out"]) == 1
  told = capsys.readouterr().err
  assert f"RAY_ADDRESS={address}: the Ray cluster cannot be joined within 5 seconds" in told
  assert told.count("\n") == 1 and not Path("out").exists()
  monkeypatch.setenv("RAY_ADDRESS", "nonsense")
  assert cli.main(["sweep", file(), "--launcher", "ray", "--out", "out"]) == 1
  told = capsys.readouterr().err
  assert "cannot be joined: ValueError: Invalid address format: nonsense" in told
  assert told.count("\n") == 1 and not Path("out").exists()


@pytest.fixture
def folder():
  """One with a short name, for sockets."""
  with tempfile.TemporaryDirectory(dir="/tmp") as folder:
    yield folder


@pytest.mark.slow
def test_a_cluster_that_wants_a_token(file, folder, monkeypatch, capfd):
  """It says at the first try that the token is wrong, and Ray goes on trying."""
  pytest.importorskip("ray")
  monkeypatch.setattr(launch, "JOIN", 10.0)
  code = "import sys; from ray.scripts.scripts import main; sys.exit(main())"
  start = ["start", "--head", "--block", "--port=0", "--num-cpus=1", "--include-dashboard=false"]
  start += ["--disable-usage-stats", f"--temp-dir={folder}"]
  guarded = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": 32 * "a"}
  cluster = subprocess.Popen([*python(code), *start], env=guarded)
  try:
    address = Path(folder, "ray_current_cluster")
    fakes.wait_for(address.exists, 60)
    monkeypatch.setenv("RAY_ADDRESS", address.read_text().strip())
    capfd.readouterr()
    assert cli.main(["sweep", file(), "--launcher", "ray", "--out", "out"]) == 1
  finally:
    cluster.terminate()
    cluster.wait(60)
  assert "cannot be joined within 10 seconds" in (told := capfd.readouterr().err)
  assert "InvalidAuthToken" in told

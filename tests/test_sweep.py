"""Sweeps: W&B's files and agents, points as one program and as processes, failures, resuming."""

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import fakes
import numpy as np
import pytest
import yaml
from test_logging import FakeWandB
from wandb.sdk.launch.sweeps import utils as wandb_agent

from selftune.core import arguments, cli, config, platform, plotting, training
from selftune.core.errors import UserError
from selftune.core.experiment import IndependentRuns
from selftune.core.sweeps import file as sweep_file
from selftune.core.sweeps import sweep
from selftune.core.sweeps.file import Outcome, Points, bindings, read
from selftune.core.sweeps.results import draw, ranked
from selftune.core.sweeps.sweep import apart_because

CONFIG = f"""{fakes.MOUNTAIN_CAR_RUNS}
train.writers = (@jsonl(), @terminal())
runs.episodes = 12
"""
GRID = {
  "ac_lambda.alpha": {"values": [1e38, 0.01, "1e-1"]},  # YAML takes 1e-1 for text
  "train.seed": {"values": [3, 8]},
}


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

  class Ended:
    def __init__(self, code):
      self.code = code

    def poll(self):
      return self.code

  class Fake:
    def __init__(self, workers, lock):
      self.workers = workers or 1

    def start(self, experiment, workdir, binds):
      values = dict(bind.split("=") for bind in binds)
      calls.append((workdir.name, values))
      workdir.mkdir(parents=True, exist_ok=True)
      (workdir / "log.txt").write_text("Traceback ...\nRunError: no luck\n")
      if values["value.cost"] == "0.3":
        return Ended(1)
      rows = [{"env_steps": 1, "episode_return": 0.0}, {"env_steps": 2, "wall_time": 7.0}]
      rows[1]["episode_return"] = -((float(values["value.cost"]) - 0.5) ** 2)
      (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
      (workdir / "done").touch()
      return Ended(0)

  monkeypatch.setattr(sweep, "Processes", Fake)
  return calls


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
  while (point := points.next()) is not None:
    points.add(point)
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
    parsed = arguments.parse(words)
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
  parsed = arguments.parse(["train", "x.gin", "a.b=1", "a.c='t'", "--bind", "a.b = 2"])
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
    found = apart_because(root, [point], **{"bayes": False, **options})
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


@pytest.mark.slow
def test_bayes_asks_again_after_every_result(file, trained, tmp_path):
  cost = {"value.cost": {"min": 0.0, "max": 1.0}}
  for cap in (2, 3):  # a higher cap goes on
    name = file("experiments/catch_stacx", method="bayes", parameters=cost, run_cap=cap)
    assert sweep.sweep(name, tmp_path / "out")
    assert [name for name, _ in trained] == ["000", "001", "002"][:cap]
  assert len({values["value.cost"] for _, values in trained}) == 3


def test_random_points_are_the_same_every_time(file, tmp_path):
  rate = {"a.rate": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1.0}}
  found = read(file(method="random", parameters=rate, run_cap=4))
  asked = []
  for name in ("one", "two"):
    points = Points(found, tmp_path / name)
    while (point := points.next()) is not None:
      points.add(point)
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
  "empty": ({"parameters": {}}, "a sweep has method, parameters and command"),
}


@pytest.mark.parametrize("given, message", WRONG.values(), ids=WRONG)
def test_mistakes_create_nothing(file, tmp_path, capsys, given, message):
  name = given
  if not isinstance(given, str):
    name = file()
    Path(name).write_text(yaml.safe_dump(yaml.safe_load(Path(name).read_text()) | given))
  assert cli.main(["sweep", name]) == 2
  told = capsys.readouterr().err
  assert message in told and told.count("\n") == 1, told
  assert not Path("runs").exists()


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
  with sweep._alone(tmp_path):
    with pytest.raises(UserError, match=r"is in use by process .*: another sweep, or points"):
      with sweep._alone(tmp_path):
        pass
  with sweep._alone(tmp_path):
    pass


@pytest.mark.slow
def test_a_killed_sweep_leaves_no_process_and_the_same_command_goes_on(file, tmp_path):
  """Points as processes: kill -9 of the sweep in the middle of its points."""
  steps = ["--bind=train.total_env_steps = 30_000", "--bind=train.checkpoint_seconds = 0.0"]
  steps.append("--bind=train.log_seconds = 0.1")
  name = file("experiments/catch_stacx", steps, parameters={"train.seed": {"values": [0, 1]}})
  out = tmp_path / "out"
  command = [sys.executable, "-m", "selftune", "sweep", name, "--out", str(out), "--workers", "2"]
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


@pytest.mark.slow
def test_sigterm_saves_every_point_under_way(file, tmp_path):
  often = ["--bind=train.log_seconds = 0.1"]
  name = file("experiments/catch_stacx", often, parameters={"train.seed": {"values": [0, 1]}})
  out = tmp_path / "out"
  command = [sys.executable, "-m", "selftune", "sweep", name, "--out", str(out), "--workers", "2"]
  process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
  fakes.wait_for(lambda: _begun(out) == 2, 300)
  process.terminate()
  _, told = process.communicate(timeout=90)
  assert process.returncode == 1 and "the same command goes on" in told
  assert len(list(out.glob("runs/*/checkpoints/*"))) == 2 and not _processes(out)


@pytest.mark.slow
def test_ray_trains_points_and_survives_one_that_fails(file, tmp_path):
  pytest.importorskip("ray", minversion="2")
  points = {"train.num_envs": {"values": [8, 7, 4]}}  # 7 are not two pools
  steps = ["--bind=train.total_env_steps = 160", "--bind=train.seed = 1"]
  name = file("experiments/catch_stacx", steps, parameters=points)
  out = tmp_path / "out"
  command = [sys.executable, "-m", "selftune", "sweep", name, "--out", str(out), "--workers", "2"]
  done = subprocess.run([*command, "--launcher", "ray"], capture_output=True, text=True)
  assert done.returncode == 1, done.stderr
  assert [row["status"] for row in table(out)] == ["finished", "finished", "failed"]
  assert "train.num_envs = 7 is not divisible" in done.stderr

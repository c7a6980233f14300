"""Populations of processes: what a member trains, exchanges that are killed, members that fail."""

import json
import shutil
import subprocess
from pathlib import Path

import fakes
import jax
import numpy as np
import pytest
import yaml
from test_population_runs import CONFIG as PAID
from test_population_runs import gin as paid
from test_sweep import SELFTUNE, _processes

from selftune.core import config as configs
from selftune.core import train as training
from selftune.core.api import jsonl
from selftune.core.api.errors import UserError
from selftune.core.commands import cli
from selftune.core.commands.sweep import experiment_of
from selftune.core.record import lineage, segment
from selftune.core.record.segment import Reached, Segment
from selftune.core.runs.settings import laid_out
from selftune.core.sweeps import barrier, launch, member, population, population_file
from selftune.core.sweeps.point import DIVERGED

pytestmark = pytest.mark.usefixtures("compiled_once")

__all__ = ["paid"]  # a fixture
EVERY = 40  # env steps: two updates of `fakes.CONFIG`
RATE = {"rmsprop.learning_rate": {"min": 1e-5, "max": 1e-1}}
SECTION = {
  "members": 4,
  "every_env_steps": EVERY,
  "exploit": "@truncation()",
  "explore": "@perturb()",
}


@pytest.fixture
def file(config, tmp_path, monkeypatch):
  """Writes the file of a population."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(launch, "POLL", 0.0)

  def write(parameters=RATE, more=(), **entries):
    command = ["selftune", "train", config, "${args_no_hyphens}", *more]
    found = {"population": SECTION, "parameters": parameters, "command": command, **entries}
    (tmp_path / "crowd.yaml").write_text(yaml.safe_dump(found))
    return "crowd.yaml"

  return write


class Killed(BaseException):
  """A kill, as far as a test can be killed."""


class Members:
  """In place of `Processes`: members whose skill grows by how near their rate is to 1e-3."""

  def __init__(self, codes=()):
    self.codes, self.started = list(codes), []

  def __call__(self, workers, lock):
    self.workers = workers or 1
    return self

  def start(self, task):
    task.workdir.mkdir(parents=True, exist_ok=True)
    part = Segment.from_text(task.segment)
    self.started.append((task.workdir.name, part.exchange))
    code = self.codes.pop(0) if self.codes else 0
    if code == 1:
      (task.workdir / "log.txt").write_text("selftune: no luck.\n")
    elif code == DIVERGED:
      segment.write(task.workdir, Reached(part.exchange, diverged=True))
    else:
      train(task, part)
    return fakes.Ended(code)


def train(task, part):
  """Trains as a process does, as far as the disk shows it."""
  values = dict(bind.split("=", 1) for bind in task.bindings if "rmsprop" in bind)
  rate = float(values["rmsprop.learning_rate"])
  state = newest(task.workdir) or {"updates": 0, "exchange": 0, "skill": 0.0, "path": []}
  if part.parent and state["exchange"] < part.exchange:
    path, _, updates = part.parent.rpartition("@")
    parent = json.loads(Path(path, "checkpoints", updates, "state").read_text())
    state = parent | {"exchange": part.exchange}
  steps = 20 * state["updates"]
  jsonl.truncate(task.workdir / "episodes.jsonl", steps)
  if steps < min(part.until, 120):
    state["path"] = [*state["path"], task.workdir.name]
  while state["updates"] * 20 < min(part.until, 120):
    state["updates"] += 1
    state["skill"] += 1 / (1 + abs(np.log(rate / 1e-3)))
    row = {"env_steps": 20 * state["updates"], "return": state["skill"], "length": 1}
    with (task.workdir / "episodes.jsonl").open("a") as episodes:
      episodes.write(jsonl.encode(row))
  kept = task.workdir / "checkpoints"
  shutil.rmtree(kept, ignore_errors=True)  # a run keeps its newest: a copy may come too late
  (kept / str(state["updates"])).mkdir(parents=True)
  (kept / str(state["updates"]) / "state").write_text(json.dumps(state))
  steps = 20 * state["updates"]
  segment.write(task.workdir, Reached(part.exchange, False, steps >= 120, steps, state["updates"]))


def newest(workdir):
  found = list(workdir.glob("checkpoints/*/state"))
  return json.loads(found[0].read_text()) if found else None


def left_behind(out):
  """What a population of `Members` leaves behind."""
  names = (lineage.FILE, barrier.METRICS, barrier.FILE, "runs.csv")
  texts = {name: (out / name).read_text() for name in names}
  return texts, [newest(workdir) for workdir in sorted(out.glob("runs/*"))]


def start(name, out="out"):
  return cli.main(["sweep", name, "--out", str(out)])


def test_exchanges_are_those_of_the_same_population_on_the_device(
  file, config, tmp_path, monkeypatch
):
  monkeypatch.setattr(population, "Processes", Members())
  assert start(file()) == 0
  bounds = {name: (spec["min"], spec["max"]) for name, spec in RATE.items()}
  own = [f"population.{k} = {v}" for k, v in SECTION.items() if k != "members"]
  root = configs.load(
    config,
    (
      *("train.runtime = @runs()", "runs.population = @population()", "runs.repeats = 4", *own),
      f"population.bounds = {bounds}",
      "population.first = 'drawn'",
      "runs.settings = {'rmsprop.learning_rate': (1e-3,)}",
    ),
  ).root
  seeds, settings, rules = laid_out(root, root.runs)
  assert seeds == [0, 1, 2, 3]
  standing, want = rules.begin(), lineage.start(settings).rows(0)
  for number, steps in ((1, 40), (2, 80)):
    episodes = [fakes.rows(tmp_path / "out/runs" / f"00{k}", "episodes") for k in range(4)]
    ended = [
      [r["return"] for r in rows if steps - EVERY < r["env_steps"] <= steps] for rows in episodes
    ]
    standing = standing.counted([[(x, 1) for x in returns] for returns in ended])
    none = np.zeros(4, bool)
    standing, made = rules.exchange(standing, none, none, steps)
    assert made.number == number and made.copies
    want += made.rows(4 * steps)
  text = (tmp_path / "out" / lineage.FILE).read_text()
  assert text == "".join(map(jsonl.encode, want))
  rows = fakes.rows(tmp_path / "out")
  assert [row["env_steps"] for row in rows] == [160, 320, 480]
  assert rows[-1]["settings/rmsprop.learning_rate/greatest"] == pytest.approx(
    max(made.after["rmsprop.learning_rate"]), rel=1e-5
  )


STEPS = [  # what an exchange does to the disk, and what begins a process
  *((barrier.files, "write"), (barrier.lineage, "append"), (barrier.shutil, "copytree")),
  *((barrier, "_link"), (barrier, "log"), (barrier, "_tidy"), (barrier.shutil, "rmtree")),
  *((barrier.lineage, "begin"), (segment, "write"), (Members, "start")),
]


def test_a_kill_between_any_two_steps_changes_nothing(file, tmp_path, monkeypatch):
  name = file(population={**SECTION, "members": 2})
  crowd, calls, kill_at = population_file.read(name, experiment_of), 0, -1

  def counted(step):
    def call(*args, **kwargs):
      nonlocal calls
      calls += 1
      if calls == kill_at:
        raise Killed
      return step(*args, **kwargs)

    return call

  monkeypatch.setattr(population, "Processes", Members())
  for owner, step in STEPS:
    monkeypatch.setattr(owner, step, counted(getattr(owner, step)))
  monkeypatch.setattr(population.results, "print_table", lambda *args: None)
  assert population.population(crowd, tmp_path / "whole")
  whole, steps = left_behind(tmp_path / "whole"), calls
  assert steps > 40
  for at in range(1, steps + 1):
    out, calls, kill_at = tmp_path / "killed", 0, at
    with pytest.raises(Killed):
      population.population(crowd, out)
    kill_at = -1
    assert population.population(crowd, out)
    assert left_behind(out) == whole, f"killed before step {at}"
    shutil.rmtree(out)


def test_a_member_that_fails_is_started_once_more(file, tmp_path, monkeypatch, capsys):
  members = Members([0, 1, 0, 1, 0, 1])  # the second member, and twice the fourth
  monkeypatch.setattr(population, "Processes", members)
  name, out = file(), tmp_path / "out"
  assert start(name) == 1
  told = capsys.readouterr().err
  assert (
    "member 1 ended too early, with exit code 1, and is started once more: no luck. (all" in told
  )
  assert "selftune: member 3 failed 2 times after exchange 0: no luck." in told
  assert "the same command goes on" in told and not (out / "runs.csv").exists()
  assert members.started == [(f"00{k}", 0) for k in (0, 1, 2, 3, 1)] + [("003", 0)]
  members.started.clear()
  assert start(name) == 0
  assert members.started[:1] == [("003", 0)] and len(members.started) == 1 + 2 * 4


def test_one_that_diverges_begins_anew_as_a_copy(file, tmp_path, monkeypatch, capsys):
  members = Members([0, DIVERGED, 0, 0, 0])
  monkeypatch.setattr(population, "Processes", members)
  assert start(file()) == 0
  rows = fakes.rows(tmp_path / "out", "lineage")
  assert [row["diverged"] for row in rows[4:8]] == [False, True, False, False]
  parent = rows[5]["parent"]
  assert parent != 1 and rows[5]["env_steps"] == 3 * EVERY
  assert newest(tmp_path / "out/runs/001")["path"][0] == f"00{parent}"
  assert "member 1 diverged" in capsys.readouterr().err

  members.codes = [DIVERGED] * 5
  assert cli.main(["sweep", file(), "--out", "all"]) == 1
  assert "all members of all diverged before exchange 1" in capsys.readouterr().err


def test_members_begin_with_values_that_are_given(file, tmp_path, monkeypatch):
  monkeypatch.setattr(population, "Processes", Members())
  given = [1e-5, 1e-4, 1e-3, 1e-2]
  assert start(file({"rmsprop.learning_rate": {"values": given}})) == 0
  rows = fakes.rows(tmp_path / "out", "lineage")
  assert [row["rmsprop.learning_rate"] for row in rows[:4]] == given
  assert [row["parent"] for row in rows[4:8]] == [2, 1, 2, 3]


WRONG = {
  "key": ({"method": "grid"}, "a population has no method; it has program, "),
  "section": ({"population": 4}, "write population: {members: 4, every_env_steps"),
  "one": ({"population": {**SECTION, "members": 1}}, "members is 1; it takes two or more"),
  "bounds": ({"population": {**SECTION, "first": "drawn"}}, "are those of parameters"),
  "plugin": ({"population": {"members": 4, "explore": "@perturb()"}}, "population.exploit must"),
  "number": ({"population": {**SECTION, "pb2.c_1": 1}}, "'pb2' is bound but never built"),
  "parameters": ({"parameters": {}}, "write parameters: {NAME: {min: 1e-4, max: 1e-2}"),
  "distribution": ({"parameters": {"entropy.cost": {"mu": 1}}}, "is no parameter of a population"),
  "values": ({"parameters": {"entropy.cost": {"values": [1]}}}, "one for each of the 4 members"),
  "text": ({"parameters": {"entropy.cost": {"min": "a", "max": 1}}}, "'a' is no number"),
  "some": (
    {"parameters": {**RATE, "entropy.cost": {"values": [1, 1, 1, 1]}}},
    "entropy.cost has values, and others have none",
  ),
  "name": ({"parameters": {"entropy.cots": {"min": 0, "max": 1}}}, "Did you mean 'entropy.cost'"),
  "macro": ({"parameters": {"entropy": {"min": 0, "max": 1}}}, "entropy"),
  "bound": (
    {"parameters": {"entropy.cost": {"min": -1, "max": 1}}},
    "bounds['entropy.cost'] takes",
  ),
  "order": ({"parameters": {"entropy.cost": {"min": 1, "max": 0.1}}}, "write the lesser first"),
  "device": ({"more": ["--bind=train.runtime = @runs()"]}, "train.runtime is @runs()"),
  "logs": ({"more": ["--bind=train.writers = (@recorder(),)"]}, "put @jsonl() among"),
}


@pytest.mark.parametrize("wrong, said", WRONG.values(), ids=WRONG)
def test_what_a_file_must_say(wrong, said, file, tmp_path, capsys):
  assert start(file(**wrong)) == 2
  told = capsys.readouterr().err
  assert said in told and told.startswith("selftune: crowd.yaml: ") and told.count("\n") == 1
  assert not (tmp_path / "out").exists()


def test_another_population_is_refused(file, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(population, "Processes", Members())
  assert start(file()) == 0
  assert start(file(population={**SECTION, "every_env_steps": 60})) == 2
  assert "out holds another sweep than crowd.yaml" in capsys.readouterr().err


def test_a_macro_is_varied_wherever_it_is_read(file, config, tmp_path, monkeypatch):
  monkeypatch.setattr(population, "Processes", Members())
  macro = ["--bind=cost = 0.1", "--bind=entropy.cost = %cost", "--bind=value.cost = %cost"]
  assert start(file({**RATE, "cost": {"min": 0.01, "max": 0.5}}, macro)) == 0
  rows = fakes.rows(tmp_path / "out", "lineage")
  assert all(0.01 <= row["entropy.cost"] <= 0.5 for row in rows)


def test_a_segment_whose_last_scores_a_signal_ended_is_not_reached(tmp_path, monkeypatch):
  stopped = training.Progress(updates=6, env_steps=120, unscored=True)
  for progress in (stopped, training.Progress(updates=6, env_steps=120, done=True)):
    assert segment.read(tmp_path, 2) is None
    monkeypatch.setattr(training, "train", lambda *_, progress=progress, **__: progress)
    member.advance("crowd.gin", (), tmp_path, Segment(2, 120, ()))
  assert segment.read(tmp_path, 2) == Reached(2, False, True, 120, 6)


def test_a_macro_may_be_0(file, tmp_path, monkeypatch):
  monkeypatch.setattr(population, "Processes", Members())
  macro = ["--bind=cost = 0.1", "--bind=entropy.cost = %cost"]
  rate = {"rmsprop.learning_rate": {"values": [0.01, 0.02, 0.03, 0.04]}}
  assert start(file({**rate, "cost": {"values": [0.0] * 4}}, macro)) == 0
  assert {row["entropy.cost"] for row in fakes.rows(tmp_path / "out", "lineage")} == {0.0}


# What a member trains.


def learner(workdir):
  """Checksums of the newest checkpoint, without its key."""
  sums = fakes.checksums(workdir)
  return {name: crc for name, crc in sums.items() if name != "key"}, sums["key"]


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["lockstep", "sebulba"])
def test_a_segment_is_a_part_of_the_whole_run(runtime, config, tmp_path):
  varied, how = ("rmsprop.learning_rate",), f"train.runtime = @{runtime}()"
  for number, workdir in enumerate((tmp_path / "a", tmp_path / "b")):
    seed = f"train.seed = {number}"
    member.advance(config, (how, seed), workdir, Segment(0, 41, varied))
    assert segment.read(workdir, 0) == Reached(0, False, False, 60, 3)
    assert fakes.checkpoints(workdir) == [3] and fakes.rows(workdir)[-1]["env_steps"] == 60
    member.advance(config, (how, seed), workdir, Segment(0, 41, varied))  # its record was lost
    assert len(fakes.rows(workdir, "restarts")) == 1
  new = (how, "train.seed = 1", "rmsprop.learning_rate = 0.01")
  with pytest.raises(UserError, match=r"rmsprop.learning_rate is 0.0001 there and 0.01 here"):
    training.train(config, new, tmp_path / "b", resume=True)
  with pytest.raises(UserError, match=r"train.seed is 1 there and 2 here"):
    member.advance(config, (how, "train.seed = 2"), tmp_path / "b", Segment(1, 81, varied))

  parent = f"{tmp_path / 'a'}@3"
  before, key = learner(tmp_path / "b")
  with pytest.MonkeyPatch.context() as patched:
    patched.setattr(training, "run", lambda *args: args[5])  # it is killed before an update
    member.advance(config, new, tmp_path / "b", Segment(1, 81, varied, parent))
  assert segment.read(tmp_path / "b", 1) is None and learner(tmp_path / "b") == (before, key)

  taken = []
  run = training.run

  def seen(*args):
    taken.append((jax.device_get(args[4]._replace(key=None)), args[5]))
    return run(*args)

  with pytest.MonkeyPatch.context() as patched:
    patched.setattr(training, "run", seen)
    member.advance(config, new, tmp_path / "b", Segment(1, 81, varied, parent))
    member.advance(config, (how, "train.seed = 0"), tmp_path / "a", Segment(1, 81, varied))
  (copied, progress), (of_parent, _) = taken
  jax.tree.map(np.testing.assert_array_equal, copied, of_parent)
  assert (progress.updates, progress.env_steps, progress.exchange) == (3, 60, 1)
  assert learner(tmp_path / "b")[1] == key and fakes.checkpoints(tmp_path / "b") == [3, 5]
  assert fakes.rows(tmp_path / "b", "restarts")[-1]["init_from"] == parent
  member.advance(config, new, tmp_path / "b", Segment(2, 121, varied))
  assert segment.read(tmp_path / "b", 2) == Reached(2, False, True, 120, 6)


# For real.


@pytest.mark.slow
def test_members_for_real_take_over_as_runs_on_the_device(paid, tmp_path, monkeypatch):
  """Their scores follow from a setting alone, so that the whole lineage can be told to agree."""
  of_all = ("train.total_env_steps = 96",)
  training.train(paid, of_all, tmp_path / "device")

  class Here(Members):
    def start(self, task):
      arguments = (task.experiment, task.bindings, task.workdir)
      member.advance(*arguments, Segment.from_text(task.segment))
      return fakes.Ended(0)

  lines = PAID.replace("@runs()", "@lockstep()").splitlines()
  alone = [line for line in lines if not line.startswith(("runs.", "population.", "include 'pop"))]
  (tmp_path / "alone.gin").write_text("\n".join(alone))
  values = {"paid.pay": [1.0, 2.0, 4.0, 8.0], "rmsprop.learning_rate": [0.01] * 4}
  found = {
    "population": {**SECTION, "every_env_steps": 32},
    "parameters": {name: {"values": column} for name, column in values.items()},
    "command": [
      *("selftune", "train", str(tmp_path / "alone.gin"), "${args_no_hyphens}"),
      *(f"--bind={bind}" for bind in of_all),
    ],
  }
  (tmp_path / "crowd.yaml").write_text(yaml.safe_dump(found))
  monkeypatch.setattr(population, "Processes", Here())
  assert start(str(tmp_path / "crowd.yaml"), tmp_path / "out") == 0
  rows, wanted = (fakes.rows(tmp_path / name, "lineage") for name in ("out", "device"))
  assert rows == wanted and max(row["exchange"] for row in rows) == 2
  assert any(row["parent"] != row["run"] for row in rows)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["processes", "ray"])
def test_a_killed_population_goes_on(launcher, tmp_path, monkeypatch):
  if launcher == "ray":
    pytest.importorskip("ray")
  monkeypatch.chdir(tmp_path)
  steps = ["train.total_env_steps = 6_000", "metagradient.tune = ()", "agent.heads = 1"]
  command = ["selftune", "train", "experiments/catch_stacx", "${args_no_hyphens}"]
  found = {
    "population": {**SECTION, "members": 2, "every_env_steps": 2_000},
    "parameters": RATE,
    "command": [*command, *(f"--bind={step}" for step in steps)],
  }
  (tmp_path / "crowd.yaml").write_text(yaml.safe_dump(found))
  out = tmp_path / "out"
  again = [*SELFTUNE, "sweep", "crowd.yaml", "--out", str(out), "--workers", "2"]
  again += ["--launcher", launcher]
  with subprocess.Popen(again, stderr=subprocess.PIPE, text=True) as killed:
    try:
      fakes.wait_for(lambda: (out / barrier.FILE).exists() or killed.poll() is not None, 400)
    finally:
      killed.kill()
    assert (out / barrier.FILE).exists(), killed.stderr.read()
  fakes.wait_for(lambda: not _processes(out), 60)
  before = (out / lineage.FILE).read_text()
  done = subprocess.run(again, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert (out / lineage.FILE).read_text().startswith(before)
  rows = lineage.read(out / lineage.FILE)
  assert [row.exchange for row in rows] == [0, 0, 1, 1, 2, 2]
  copies = [row for row in rows if row.parent != row.run]
  for row in copies:
    log = (out / "runs" / f"00{row.run}" / "log.txt").read_text()
    assert f"goes on as a copy of {out}/exchanges/{row.exchange}/00{row.parent}@" in log
  assert (out / "curves.png").exists() and (out / "runs.csv").read_text().count("\n") == 3

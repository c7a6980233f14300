"""The command line: every command, and every mistake with its one message and nothing lost."""

import dataclasses
import errno
import importlib
import io
import json
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import jax
import numpy as np
import pytest
from imageio.v2 import mimread

from selftune.core import config
from selftune.core.api import jsonl, registry
from selftune.core.commands import config as config_command
from selftune.core.commands.cli import main
from selftune.core.engine import loop
from selftune.core.engine.learner import Learner
from selftune.core.evaluation import evaluate
from selftune.core.record.workdir import Workdir
from selftune.plugins.envs.envpool import EnvPool

SMALL = """
train.env = @envpool()
train.agent = @agent()
train.runtime = @lockstep()
train.writers = (@jsonl(), @terminal())
train.total_env_steps = 320
train.num_envs = 8
train.unroll_length = 10
train.log_seconds = 0.0
train.checkpoint_seconds = 0.0
agent.network = @mlp()
agent.objective = @objective()
objective.corrector = @vtrace()
objective.losses = (@policy_gradient(), @value(), @entropy())
objective.optimizer = @rmsprop()
agent.metaopt = @fixed()
"""


@registry.register("writer", "unopened")
@dataclasses.dataclass(frozen=True)
class Unopened:
  """Does not open."""

  required: ClassVar[bool] = False

  def open(self, run):
    raise OSError("no network\nat all")


@dataclasses.dataclass(frozen=True)
class Result:
  code: int
  out: str
  err: str


@pytest.fixture
def cli(capfd, monkeypatch):
  """Runs a command in this process."""
  monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"])  # restored: a run may add to it

  def run(*arguments):
    capfd.readouterr()
    code = main([str(argument) for argument in arguments])
    return Result(code, *capfd.readouterr())

  return run


@pytest.fixture(scope="module")
def small(tmp_path_factory):
  path = tmp_path_factory.mktemp("configs") / "small.gin"
  path.write_text(SMALL)
  return path


pytestmark = pytest.mark.usefixtures("compiled_once")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, small):
  """A run of four updates with the checkpoints of the last three; and its last parameters."""
  saved = []

  def save(checkpoints, state, *rest):
    saved.append(jax.device_get(state.params))
    original(checkpoints, state, *rest)

  original, loop.save = loop.save, save
  try:
    workdir = tmp_path_factory.mktemp("runs") / "trained"
    assert main(["train", str(small), "--workdir", str(workdir)]) == 0
  finally:
    loop.save = original
  return workdir, saved[-1]


@pytest.fixture
def run(trained, tmp_path):
  """A copy of the trained run."""
  return shutil.copytree(trained[0], tmp_path / "run")


def contents(folder):
  return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def assert_refused(result, *words):
  assert result.code == 2
  assert result.out == ""
  assert result.err.startswith("selftune: ") and result.err.count("\n") == 1, result.err
  for word in words:
    assert word in result.err


MISTAKES = {
  "component": (["train.env = @envpol()"], ["no component is named 'envpol'", "'envpool'"]),
  "parameter": (["train.num_env = 3"], ["'train' has no parameter 'num_env'", "'num_envs'"]),
  "macro": (["seed = 1", "train.seed = %sed"], ["macro '%sed' is not defined", "'seed'"]),
  "unread macro": (["sed = 1"], ["macro 'sed' is defined but never read"]),
  "scope": (["aux/entropy.cost = 0.1"], ["scope 'aux' is never opened for 'entropy'"]),
  "type": (["train.num_envs = '8'"], ["train.num_envs takes int at least 1, not '8'"]),
  "range": (["train.micro_batch = 0"], ["train.micro_batch takes int at least 1 or None, not 0"]),
  "groups": (["lockstep.groups = 0"], ["lockstep.groups takes int at least 1, not 0"]),
  "keep": (["train.checkpoints_to_keep = 1"], ["checkpoints_to_keep = 1 must be at least 2"]),
  "writers": (
    ["train.writers = (@jsonl(), @a/wandb(), @b/wandb())"],
    ["writers holds one twice: jsonl, wandb, wandb"],
  ),
  "outer": (
    ["objective.outer = @outer()", "outer.losses = (@value(), @value())"],
    ["outer.losses holds 'value' twice"],
  ),
  "heads": (["agent.heads = 0"], ["agent.heads takes int at least 1, not 0"]),
  "discount": (["vtrace.gamma = 99"], ["vtrace.gamma takes float from 0 to 1, not 99"]),
  "cost": (["entropy.cost = -0.1"], ["entropy.cost takes float at least 0, not -0.1"]),
  "b1": (
    ["agent.metaopt = @metagradient()", "metagradient.b1 = 1"],
    ["metagradient.b1 takes float from 0 to below 1, not 1"],
  ),
  "float32": (["rmsprop.eps = 1e-50"], ["takes float above 0, not 1e-50. In float32 that is 0."]),
  "int32": (["train.num_envs = 10_000_000_000"], ["not 10000000000. It is at most 2_147_483_647."]),
  "updates": (
    ["train.total_env_steps = 10_000_000_000_000"],
    ["is 125,000,000,000 updates of 80 steps; a run counts to 2,147,483,647"],
  ),
  "infinity": (["vtrace.rho_bar = 1e400"], ["vtrace.rho_bar: inf is no number", "such as 1e30"]),
  "game": (["train.env = @atari()", "atari.game='brekout'"], ["'brekout'", "'breakout'"]),
  "task": (["envpool.task = 'Catch'"], ["envpool.task = 'Catch' does not exist", "'Catch-v0'"]),
  "tune": (
    ["agent.metaopt = @metagradient()", "metagradient.tune = ('vtrace.gama',)"],
    ["'vtrace.gama' matches no tunable", "'vtrace.gamma'", "entropy.cost", "rmsprop.learning_rate"],
  ),
  "actions": (["envpool.task = 'Pendulum-v1'"], ["write @normal_kl() for @entropy()"]),
  "bounds": (
    ["train.env = @dm_control()", "dm_control.domain = 'lqr'", "dm_control.task = 'lqr_2_1'"],
    ["no policy serves the action space", "finite bounds"],
  ),
  "network": (["agent.network = @impala_resnet()"], ["'impala_resnet' takes images", "@mlp()"]),
  "environments": (["train.num_envs = 33"], ["num_envs = 33", "choose a multiple of 2"]),
  "batch": (
    ["train.num_envs = 33", "lockstep.groups = 1", "train.learner_devices = (0, 1)"],
    ["33", "not divisible by 2 learner devices"],
  ),
  "micro_batch": (["train.micro_batch = 3"], ["micro_batch = 3 does not divide the 8"]),
  "learner device": (["train.learner_devices = (7,)"], ["learner_devices = (7,)", "0 to 1"]),
  "actor device": (["lockstep.actor_devices = (-1,)"], ["actor_devices = (-1,)", "0 to 1"]),
  "nonsense": (["nonsense"], ["--bind 'nonsense'"]),
  "no value": (["train.seed ="], ["--bind 'train.seed ='"]),
  "no quotes": (["x.y = z"], ["--bind 'x.y = z'", "needs quotes"]),
  "empty": ([""], ["--bind ''"]),
  "two values": (["train.seed = 1 2"], ["--bind 'train.seed = 1 2'"]),
}


@pytest.mark.parametrize("bindings, words", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_the_configuration_creates_nothing(cli, small, tmp_path, bindings, words):
  binds = [f"--bind={binding}" for binding in bindings]
  workdir = tmp_path / "new"
  assert_refused(cli("train", small, *binds, "--workdir", workdir), *words)
  assert not workdir.exists()


@pytest.mark.parametrize(
  "case", ["environments", "batch", "micro_batch", "learner device", "actor device"]
)
def test_config_refuses_what_train_would_and_makes_no_environment(cli, small, monkeypatch, case):
  monkeypatch.setattr(EnvPool, "make", None)
  bindings, words = MISTAKES[case]
  assert_refused(cli("config", small, *bindings), *words)


def too_much(*_):
  return np.empty(2**60, np.uint8)  # NumPy's MemoryError


def exhausted(*_):
  said = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8 bytes.\n  and so on"
  raise jax.errors.JaxRuntimeError(said)


def wrapped(*_):
  """As a layer above may tell of it, from the CPU."""
  try:
    raise jax.errors.JaxRuntimeError(
      "INTERNAL: Error dispatching: Out of memory allocating 8 bytes."
    )
  except jax.errors.JaxRuntimeError as error:
    raise RuntimeError("the rollout failed") from error


@pytest.mark.parametrize(
  "fails, said", [(too_much, "1.00 EiB"), (exhausted, "8 bytes"), (wrapped, "8 bytes")]
)
@pytest.mark.parametrize(
  "where", ["EnvPool.make", "Learner.init", "Learner.trace", "Learner.update"]
)
def test_too_little_memory_says_what_to_halve(
  cli, small, tmp_path, monkeypatch, where, fails, said
):
  cls, _, method = where.partition(".")
  monkeypatch.setattr({"EnvPool": EnvPool, "Learner": Learner}[cls], method, fails)
  result = cli("train", small, "--workdir", tmp_path / "run")
  assert result.code == 1
  (line,) = [x for x in result.err.splitlines() if x.startswith("selftune: ")]
  assert line.startswith("selftune: out of memory: ") and said in line
  assert "Halve train.micro_batch (it is None, all of a device's share)" in line
  assert "train.num_envs, train.unroll_length" in line and "Traceback" not in result.err


def test_too_little_memory_to_evaluate(cli, run, monkeypatch):
  monkeypatch.setattr(EnvPool, "make", too_much)
  result = cli("eval", run)
  assert result.code == 1 and "out of memory: " in result.err and "fewer --episodes" in result.err
  monkeypatch.undo()


def test_what_no_machine_holds_is_refused_before_it_is_tried(cli, small, tmp_path):
  for binding in ("train.num_envs = 1_000_000_000", "train.unroll_length = 2_000_000_000"):
    result = cli("train", small, binding, "--workdir", tmp_path / "run")
    assert result.code == 1 and result.err.count("\n") == 1
    assert "GB of memory; this machine has" in result.err
  assert not (tmp_path / "run").exists()


def test_a_mistake_in_a_resumed_run_loses_nothing(cli, small, run):
  before = contents(run)
  for binding in ("entropy.cst = 1", "agent.network = @impala_resnet()", "train.seed = 1"):
    result = cli("train", small, f"--bind={binding}", "--workdir", run, "--resume")
    assert_refused(result)
  assert contents(run) == before


def test_a_configuration_that_is_not_there(cli, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for command in ("train", "config"):
    assert_refused(cli(command, "experiments/catch_stax"), "'experiments/catch_stacx'")
  assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_there_is_not_started_over(cli, small, run):
  before = contents(run)
  assert_refused(cli("train", small, "--workdir", run), "holds a run already", "--resume")
  assert contents(run) == before


def test_resuming_with_another_configuration(cli, small, run):
  before = contents(run)
  result = cli("train", small, "--bind=entropy.cost = 0.5", "--workdir", run, "--resume")
  assert_refused(result, "another configuration", "entropy.cost is 0.01 there and 0.5 here")
  assert contents(run) == before


def test_a_number_written_otherwise_is_the_same_configuration(cli, run):
  again = run.parent / "again.gin"
  again.write_text(f"{SMALL}policy_gradient.cost = 1\n")  # the default is 1.0
  result = cli("train", again, "--workdir", run, "--resume")
  assert result.code == 0 and "has made 320 of 320 env steps already" in result.err


def test_resuming_where_there_is_no_run(cli, small, tmp_path):
  (tmp_path / "empty").mkdir()
  for name in ("empty", "absent"):
    result = cli("train", small, "--workdir", tmp_path / name, "--resume")
    assert_refused(result, "no run to resume", "leave out --resume")
  assert contents(tmp_path) == {} and not (tmp_path / "absent").exists()


def test_workdirs_that_cannot_be_written(cli, small, tmp_path):
  file = tmp_path / "file"
  file.write_text("mine")
  for workdir in (file, file / "below", Path("/proc/selftune")):
    result = cli("train", small, "--workdir", workdir)
    assert_refused(result, "cannot write to", "another --workdir")
  assert file.read_text() == "mine"


GOES_ON = ("train", "SMALL", "--bind=train.total_env_steps = 400", "--resume", "--workdir", "RUN")
IN_THE_WAY = [  # what is a folder, the command, its exit code and what it says
  ("config.gin", ("eval", "RUN"), 2, "holds no run"),
  ("restarts.jsonl", ("eval", "RUN"), 2, "cannot read RUN/restarts.jsonl: Is a directory."),
  ("restarts.jsonl", GOES_ON, 2, "cannot read RUN/restarts.jsonl: Is a directory."),
  ("metrics.jsonl", GOES_ON, 2, "cannot read RUN/metrics.jsonl: Is a directory."),
  ("operative_config.gin", GOES_ON, 1, "cannot write RUN/operative_config.gin: Is a directory."),
  ("curves.png", ("plot", "RUN"), 1, "cannot write RUN/curves.png: Is a directory."),
  ("train.lock", GOES_ON, 2, "cannot write to RUN: Is a directory. Choose another --workdir."),
]


@pytest.mark.parametrize(("name", "command", "code", "message"), IN_THE_WAY)
def test_a_file_that_cannot_be_read_or_written_is_named(
  cli, small, run, name, command, code, message
):
  (run / name).unlink(missing_ok=True)
  (run / name).mkdir()
  names = {"RUN": str(run), "SMALL": str(small)}
  result = cli(*(names.get(word, word) for word in command))
  assert result.code == code and "Traceback" not in result.err
  assert message.replace("RUN", str(run)) in result.err.splitlines()[-1]
  assert (run / name).is_dir()  # nothing was put in its place
  assert sorted(run.glob(".*")) == []  # and nothing half written is left


def test_checkpoints_that_are_no_folder(cli, small, run):
  before = {path.name: path.read_bytes() for path in run.glob("*.*")}
  shutil.rmtree(run / "checkpoints")
  (run / "checkpoints").write_text("in the way")
  more = "--bind=train.total_env_steps = 400"
  result = cli("train", small, more, "--resume", "--workdir", run)
  assert_refused(result, f"cannot write to {run / 'checkpoints'}:", "another --workdir")
  assert {path.name: path.read_bytes() for path in run.glob("*.*")} == before


def test_an_error_of_a_file_that_nobody_expected(cli, monkeypatch):
  def fail(arguments):
    raise failure

  monkeypatch.setattr(config_command, "run", fail)
  failure = PermissionError(errno.EACCES, "Permission denied", "a/b.csv")
  assert cli("config", "x") == Result(1, "", "selftune: a/b.csv: Permission denied.\n")
  failure = OSError(errno.ENAMETOOLONG, "File name too long", "a/b")
  assert cli("config", "x") == Result(2, "", "selftune: a/b: File name too long.\n")
  failure = OSError("of no file: a bug")
  with pytest.raises(OSError, match="a bug"):
    cli("config", "x")


def test_names_of_workdirs(cli, small, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for workdir, words in (
    ("", "--workdir: it is empty: write ./ for the current folder"),
    ("x" * 300, "File name too long. Choose another --workdir."),
    ("lr=[0.1]", "not read back from one with [ in it"),
    ("gs://bucket/run", "gs:// begins an address: mount it"),
  ):
    assert_refused(cli("train", small, "--workdir", workdir), words)
  assert_refused(cli("eval", ""), "WORKDIR[@STEP]: it is empty")
  assert_refused(cli("eval", "x" * 300), "File name too long")
  assert_refused(cli("plot", "."), "not the workdir of a training run")
  assert_refused(cli("plot", ".", "--out", "."), "write curves.png")
  assert list(tmp_path.iterdir()) == []


def test_folders_without_a_run(cli, tmp_path):
  assert_refused(cli("eval", tmp_path), "holds no run")
  assert_refused(cli("plot", tmp_path), "not the workdir of a training run")
  assert list(tmp_path.iterdir()) == []


def test_a_run_without_a_checkpoint(cli, run):
  shutil.rmtree(run / "checkpoints")
  assert_refused(cli("eval", run), "has no checkpoint:")


ARGUMENTS = {
  "nothing": ([], ["COMMAND", "selftune --help"]),
  "command": (["trian", "x"], ["invalid choice: 'trian'", "train"]),
  "no config": (["train"], ["required: CONFIG", "selftune train --help"]),
  "flag": (["eval", "x", "--gredy"], ["unrecognized arguments: --gredy", "selftune eval --help"]),
  "unquoted": (["train", "x", "--bind", "a.b", "=", "1"], ["--bind 'train.seed = 1'"]),
  "folder": (["train", "x", "runs/x"], ["'runs/x' is no NAME=VALUE", "--workdir runs/x"]),
  "no number": (["eval", "x", "--episodes", "ten"], ["--episodes", "'ten'"]),
  "no episodes": (["eval", "x", "--episodes", "0"], ["--episodes 0: it must be int at least 1"]),
  "no steps": (["eval", "x", "--max-steps", "0"], ["--max-steps 0: it must be int at least 1"]),
  "seed": (["eval", "x", "--seed", "-1"], ["--seed -1: it must be int from 0 to 2^32 - 1"]),
  "steps": (["report", "x", "--at", "inf"], ["'inf' is no number of env steps"]),
  "kind": (["plugins", "losses"], ["'losses'", "Did you mean 'loss'?", "corrector"]),
  "format": (["plot", "x", "--out", "a.pdf"], ["a.pdf", "a.png"]),
  "no file": (["plot", "x", "--out", "/"], ["--out /", "write /curves.png"]),
  "no name": (["plot", "x", "--out", ".."], ["--out ..", "write curves.png"]),
}


@pytest.mark.parametrize("arguments, words", ARGUMENTS.values(), ids=ARGUMENTS)
def test_mistakes_in_the_arguments(cli, arguments, words):
  assert_refused(cli(*arguments), *words)


def newest_array_file(workdir):
  newest = max((workdir / "checkpoints").iterdir(), key=lambda p: int(p.name))
  return max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def test_a_truncated_checkpoint_falls_back_says_so_and_trains_on(cli, small, run):
  os.truncate(newest_array_file(run), 100)
  result = cli("eval", run, "--episodes", 2)
  assert result.code == 0 and json.loads(result.out)["env_steps"] == 240
  assert "damaged" in result.err and "going back to update 3" in result.err
  result = cli("train", small, "--workdir", run, "--resume")
  assert result.code == 0, result.err
  assert "selftune: resuming at update 3. damaged: " in result.err
  assert [row["env_steps"] for row in jsonl.read(run / "metrics.jsonl")] == [80, 160, 240, 320]
  result = cli("eval", run, "--episodes", 2)
  assert json.loads(result.out)["env_steps"] == 320 and "damaged" not in result.err


def test_training_reports_where_everything_is(cli, small, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  writers = "--bind=train.writers = (@jsonl(), @unopened())"
  result = cli("train", small, "--bind=train.seed = 3", writers)
  assert result.code == 0
  assert "Trained 320 env steps" in result.out and "Mean return of the last" in result.out
  assert "selftune eval runs/small_seed3" in result.out
  assert result.err == (
    "selftune: writer 'unopened' did not open, going on without it: no network at all\n"
  )
  assert not logging.getLogger("selftune").handlers
  assert Path("runs/small_seed3/curves.png").stat().st_size > 1000
  assert "more train.total_env_steps" not in result.out


def test_sigterm_saves_and_tells_how_to_go_on(cli, small, tmp_path, monkeypatch):
  def save(*arguments):
    original(*arguments)
    os.kill(os.getpid(), signal.SIGTERM)

  original = loop.save
  workdir = tmp_path / "a run"
  bind = "--bind=train.seed = 7"
  with monkeypatch.context() as patched:
    patched.setattr(loop, "save", save)
    result = cli("train", small, bind, "--workdir", workdir)
  assert result.code == 0 and "SIGTERM: saving and stopping." in result.err
  assert result.out.startswith("Stopped after 80 env steps. Resume with:\n")
  assert [path.name for path in (workdir / "checkpoints").iterdir()] == ["1"]
  command = shlex.split(result.out.splitlines()[-1])
  assert command == ["selftune", "train", str(small), bind, "--workdir", str(workdir), "--resume"]
  result = cli(*command[1:])
  assert result.code == 0 and "resuming at update 1." in result.err
  assert [row["env_steps"] for row in jsonl.read(workdir / "metrics.jsonl")] == [80, 160, 240, 320]


def test_numbers_that_are_not_finite_end_the_run_with_the_term(cli, small, tmp_path):
  result = cli("train", small, "--bind=value.cost = 3e38", "--workdir", tmp_path / "new")
  assert result.code == 1 and "Traceback" not in result.err
  assert result.err.splitlines()[-1].startswith("selftune: 'loss/value/0' was not finite in update")


def test_what_environments_print_does_not_spoil_the_scores(cli, trained, monkeypatch):
  monkeypatch.setattr(evaluate, "evaluate", lambda *_: print("hello from a library") or {"mean": 1})
  result = cli("eval", trained)
  assert json.loads(result.out) == {"mean": 1} and result.err == "hello from a library\n"


def test_bugs_keep_their_traceback_and_ctrl_c_does_not(cli, small, trained, monkeypatch):
  def fail(*_):
    raise failure

  monkeypatch.setattr(evaluate, "evaluate", fail)
  failure = ValueError("a bug")
  with pytest.raises(ValueError, match="a bug"):
    cli("eval", trained[0])
  failure = KeyboardInterrupt()
  assert cli("eval", trained[0]) == Result(130, "", "selftune: interrupted.\n")


def test_eval_scores_the_newest_parameters(cli, trained, monkeypatch):
  played_with = []

  def play(agent, actor_params, pool, *rest):
    played_with.append((actor_params.params, pool.num_envs))
    return original(agent, actor_params, pool, *rest)

  original = evaluate.play
  monkeypatch.setattr(evaluate, "play", play)
  workdir, params = trained
  before = contents(workdir)
  result = cli("eval", workdir, "--episodes", 18, "--seed", 5)
  assert result.code == 0 and result.out.count("\n") == 1
  scored = json.loads(result.out)
  assert scored["env_steps"] == 320 and scored["episodes"] == 18 and scored["length"] == 9.0
  assert -1 <= scored["min"] <= scored["mean"] <= scored["max"] <= 1
  assert (scored["greedy"], scored["seed"]) == (False, 5) and "normalized" not in scored
  jax.tree.map(np.testing.assert_array_equal, played_with[0][0], params)
  assert played_with[0][1] == 16
  assert json.loads(cli("eval", workdir, "--episodes", 18, "--seed", 5).out) == scored
  assert json.loads(cli("eval", workdir, "--greedy", "--episodes", 3).out)["greedy"] is True
  assert json.loads(cli("eval", f"{workdir}@3", "--episodes", 2).out)["env_steps"] == 240
  assert_refused(cli("eval", f"{workdir}@9"), "no checkpoint of update 9", "there are [2, 3, 4]")
  cut = cli("eval", workdir, "--episodes", 3, "--max-steps", 8)
  scored = json.loads(cut.out)
  assert (scored["length"], scored["cut"], scored["max_steps"]) == (8.0, 3, 8)
  assert "3 of 3 episodes did not end within 8 steps (--max-steps): cut there" in cut.err
  assert contents(workdir) == before


def test_eval_plays_in_environments_that_training_has_not_seen(trained, monkeypatch):
  made = []
  make = EnvPool.make
  monkeypatch.setattr(EnvPool, "make", lambda self, seeds: made.append(seeds) or make(self, seeds))
  evaluate.evaluate(trained[0], episodes=16)
  seen = Workdir(trained[0]).env_seeds()
  assert len(seen) == 8 and not seen & set(made[0])


def test_eval_records_a_video(cli, trained, tmp_path):
  video = tmp_path / "catch.mp4"
  assert cli("eval", trained[0], "--episodes", 2, "--video", video).code == 0
  assert len(mimread(video)) == 10  # FIRST and nine steps
  assert_refused(cli("eval", trained[0], "--video", tmp_path / "a.gif"), "write", "a.mp4")


def test_plot(cli, run, tmp_path, monkeypatch):
  (run / "curves.png").unlink()
  assert cli("plot", run) == Result(0, f"{run / 'curves.png'}\n", "")
  assert (run / "curves.png").exists()
  monkeypatch.chdir(tmp_path)
  assert cli("plot", run, run).out == "curves.png\n"
  assert cli("plot", run, "--out", "b.png").out == "b.png\n"
  assert_refused(cli("plot", run, "--out", "absent/b.png"), "cannot write the plot")


@pytest.fixture
def importing(run, monkeypatch):
  """Makes the run's configuration import a module from a folder; and forgets what was imported."""
  monkeypatch.setattr(sys, "path", list(sys.path))
  modules = set(sys.modules)

  def importing(folder, name, text="ran = True"):
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(text)
    saved = run / "config.gin"
    saved.write_text(f"import {name}\n{saved.read_text()}")
    with (run / "restarts.jsonl").open("a") as file:
      file.write(json.dumps({"imports": [str(folder)], "env_seeds": []}) + "\n")
    return folder / f"{name}.py"

  yield importing
  for name in set(sys.modules) - modules:
    if name.startswith("scratch_"):
      del sys.modules[name]


@pytest.mark.parametrize("folder", [".", "code"])
@pytest.mark.parametrize("command", ["eval", "report"])
def test_code_in_a_workdir_runs_only_where_it_is_trusted(
  cli, run, importing, tmp_path, monkeypatch, command, folder
):
  monkeypatch.chdir(run)  # whose folder is then the current one, too
  module = importing(run / folder, "scratch_inside")
  rest = ["--episodes", 1] if command == "eval" else ["--out", tmp_path / "report"]
  result = cli(command, run, *rest)
  assert_refused(result, f"imports 'scratch_inside', which lies in the workdir itself ({module})")
  assert_refused(result, "--trust")
  assert "scratch_inside" not in sys.modules
  trusted = cli(command, run, *rest, "--trust")
  assert trusted.code == 0 and sys.modules["scratch_inside"].ran
  line = f"selftune: {run / 'config.gin'} imports scratch_inside from {module}\n"
  assert trusted.err.count(line) == 1


def test_code_in_a_workdir_is_not_taken_for_other_code_of_its_name(cli, run, importing, tmp_path):
  (tmp_path / "scratch_same.py").write_text("")
  sys.path.append(str(tmp_path))
  module = Path(importlib.import_module("scratch_same").__file__)
  sys.path.remove(str(tmp_path))
  inside = importing(run, "scratch_same")
  assert_refused(cli("eval", run), f"which lies in the workdir itself ({inside})")
  words = f"means {inside}, but this process has imported {module} by that name"
  assert_refused(cli("eval", run, "--trust"), words)


def test_code_beside_a_workdir_is_told_and_imports_nothing_of_the_workdir(cli, run, importing):
  text = """
try:
  import scratch_helper
  helped = True
except ImportError:
  helped = False
"""
  module = importing(run.parent / "project", "scratch_beside", text)
  (run / "scratch_helper.py").write_text("")
  result = cli("eval", run, "--episodes", 1)
  assert result.code == 0 and not sys.modules["scratch_beside"].helped
  line = f"selftune: {run / 'config.gin'} imports scratch_beside from {module}\n"
  assert result.err.count(line) == 1


def test_plugins(cli, monkeypatch):
  monkeypatch.setattr(registry, "unavailable", lambda: {"lost.module": "ImportError: no hope"})
  found = json.loads(cli("plugins", "--json").out)
  assert list(found["plugins"]) == [*registry.KINDS, "part"]
  assert found["unavailable"] == {"lost.module": "ImportError: no hope"}
  (entropy,) = [p for p in found["plugins"]["loss"] if p["name"] == "entropy"]
  (cost,) = entropy["settings"]
  assert cost["name"] == "entropy.cost" and cost["default"] == "0.01"
  assert cost["tunable"] == {"domain": "scale", "symbol": "g_e"}
  text = cli("plugins", "loss").out
  assert f"  @entropy(): {entropy['doc']}\n" in text
  assert "    entropy.cost = 0.01  (tunable g_e: scale)\n" in text
  assert "unavailable: lost.module: ImportError: no hope\n" in text
  assert "vtrace" not in text
  parts = cli("plugins", "part").out
  assert "    train.env: needed\n" in parts and "    train.num_envs = 32\n" in parts
  assert "    runs.settings = {}\n" in parts and "  @sebulba(): " in parts
  every = cli("plugins").out
  assert "entropy.cost = 0.01" in every and "train.num_envs" not in every


def test_config_prints_what_loads_back_and_makes_no_environment(cli, small, tmp_path, monkeypatch):
  monkeypatch.setattr(EnvPool, "make", None)
  result = cli("config", small, "--bind", "entropy.cost = 0.5")
  assert result.code == 0 and result.err == ""
  printed = tmp_path / "printed.gin"
  printed.write_text(result.out)
  expected = config.load(small, ["entropy.cost = 0.5"])
  assert config.load(printed).root == expected.root
  assert "vtrace.gamma = 0.99" in result.out  # a default


def test_stdout_of_any_encoding(monkeypatch):
  for encoding in ("ascii", "latin-1"):
    out = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", out)
    assert main(["plugins", "corrector"]) == 0
    out.flush()
    assert b"leaky_vtrace.gamma = 0.99" in out.buffer.getvalue()
    assert rb"\u03b3" in out.buffer.getvalue()  # a gamma


COMMANDS = ["train", "eval", "plot", "report", "sweep", "study", "reproduce", "plugins", "config"]
COMMANDS += ["check"]


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_imports_nothing_heavy(command):
  code = f"""
import sys
from selftune.core.commands.cli import main
try:
  main({[*command, "--help"]})
except SystemExit as end:
  assert end.code == 0
heavy = {{"jax", "numpy", "gin", "orbax", "envpool", "matplotlib", "rich", "wandb"}}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert "examples:" in done.stdout or "first steps:" in done.stdout


def test_a_process_exits_with_the_code():
  command = [sys.executable, "-m", "selftune", "train"]
  done = subprocess.run(command, capture_output=True, text=True)
  assert done.returncode == 2
  assert done.stderr.startswith("selftune: the following arguments are required: CONFIG")


@pytest.mark.slow
def test_the_outer_loss_on_the_next_batch_with_several_pools(cli, small, tmp_path):
  """The meta state keeps a whole batch, though the first pool holds half of the environments."""
  binds = ["agent.metaopt = @metagradient()", "metagradient.outer_batch = 'next'"]
  binds += ["metagradient.tune = ('vtrace.gamma',)", "train.total_env_steps = 160"]
  workdir = tmp_path / "next"
  arguments = [f"--bind={bind}" for bind in binds]
  assert cli("train", small, *arguments, "--workdir", workdir).code == 0
  assert json.loads(cli("eval", workdir, "--episodes", 2).out)["env_steps"] == 160

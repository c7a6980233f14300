"""Training on the device by the same command: logs of each run, resuming to the bit, mistakes."""

import contextlib
import csv
import json
import time

import fakes
import numpy as np
import pytest

from selftune.core import config
from selftune.core import train as training
from selftune.core.api.errors import RunError, UserError
from selftune.core.api.types import BINS
from selftune.core.evaluation import evaluate
from selftune.core.experiment import IndependentRuns
from selftune.core.machine import platform
from selftune.core.record import plotting
from selftune.core.record.checkpoint import Checkpointer
from selftune.core.runs.rows import summary
from selftune.plugins.writers.jsonl import _Files

CONFIG = f"""{fakes.MOUNTAIN_CAR_RUNS}
train.writers = (@jsonl(),)
runs.settings = {{'ac_lambda.alpha': (0.01, 1e38)}}
runs.repeats = 2
runs.episodes = 8
"""


pytestmark = pytest.mark.usefixtures("compiled_once")


@pytest.fixture
def gin(tmp_path, monkeypatch):
  monkeypatch.setattr(plotting, "plot", lambda *args: None)
  path = tmp_path / "online.gin"
  path.write_text(CONFIG)
  return str(path)


def stop_at_the_second_look(monkeypatch):
  """Training is asked to stop there, once."""
  asked = []

  @contextlib.contextmanager
  def stop_signals():
    yield lambda: asked.append(None) or len(asked) == 2

  monkeypatch.setattr(platform, "stop_signals", stop_signals)


@pytest.mark.slow
def test_runs_are_logged_apart_and_resume_to_the_bit(gin, tmp_path, monkeypatch):
  whole = training.train(gin, (), tmp_path / "whole")
  assert whole.done
  with (tmp_path / "whole" / "runs.csv").open() as file:
    table = list(csv.DictReader(file))
  assert [row["run"] for row in table] == ["0", "1", "2", "3"]
  assert [row["seed"] for row in table] == ["0", "1", "0", "1"]
  assert [float(row["ac_lambda.alpha"]) for row in table] == [0.01, 0.01, 1e38, 1e38]
  assert [row["diverged"] for row in table] == ["False", "False", "True", "True"]
  assert [row["episodes"] for row in table[:2]] == ["8", "8"]
  assert [row["env_steps"] for row in table[:2]] == ["80", "80"]
  episodes = fakes.rows(tmp_path / "whole", "episodes")
  for run in (0, 1):
    mine = [row for row in episodes if row["run"] == run]
    assert [row["return"] for row in mine] == [-9.0] * 8
  last = fakes.rows(tmp_path / "whole")[-1]
  assert last["runs/active"] == 0 and last["runs/diverged"] == 2
  assert last["env_steps"] == sum(int(row["env_steps"]) for row in table)
  assert {"beta/mean", "beta/mean/least", "u", "v", "h_norm", "trace_norm"} <= last.keys()
  scored = evaluate.evaluate(tmp_path / "whole", episodes=3)
  assert (scored["mean"], scored["episodes"]) == (-9.0, 3)
  assert scored["env_steps"] == whole.env_steps

  stop_at_the_second_look(monkeypatch)
  part = training.train(gin, (), tmp_path / "parts")
  assert not part.done and part.env_steps < whole.env_steps
  rest = training.train(gin, (), tmp_path / "parts", resume=True)
  assert rest.done and rest.env_steps == whole.env_steps
  assert fakes.checksums(tmp_path / "parts") == fakes.checksums(tmp_path / "whole")
  assert fakes.rows(tmp_path / "parts", "episodes") == episodes


def test_a_run_that_stands_still_is_not_logged_again_when_resumed(gin, tmp_path, monkeypatch):
  stop_at_the_second_look(monkeypatch)
  bindings = ("runs.run_writers = (@jsonl(),)",)
  part = training.train(gin, bindings, tmp_path / "run")
  diverged, going = (tmp_path / "run" / "runs" / name for name in ("002", "000"))
  before, so_far = fakes.rows(diverged), len(fakes.rows(going))
  assert not part.done and before[-1]["runs/active"] == 0 and so_far
  training.train(gin, bindings, tmp_path / "run", resume=True)
  assert fakes.rows(diverged) == before
  rows = fakes.rows(going)
  assert len(rows) > so_far and rows[-1]["runs/active"] == 0
  for number in range(4):
    steps = [row["env_steps"] for row in fakes.rows(going.with_name(f"00{number}"))]
    assert steps == sorted(set(steps))


def test_a_run_that_ended_without_a_last_row_gets_one_when_resumed(gin, tmp_path, monkeypatch):
  stop_at_the_second_look(monkeypatch)
  # A stop saves a checkpoint at once, and no row is due so soon.
  bindings = ("runs.run_writers = (@jsonl(),)", "train.log_seconds = 1e9")
  training.train(gin, bindings, tmp_path / "run")
  log = tmp_path / "run" / "runs" / "002" / "metrics.jsonl"
  assert not log.read_text()
  training.train(gin, bindings, tmp_path / "run", resume=True)
  (row,) = fakes.rows(log.parent)
  assert row["runs/diverged"] == 1 and row["runs/active"] == 0


def test_the_same_agent_learns_from_a_pool_on_the_host(gin, tmp_path):
  on_host = [line for line in CONFIG.splitlines() if not line.startswith("runs.")]
  bindings = ("train.runtime = @lockstep()", "lockstep.groups = 1", "train.total_env_steps = 40")
  (tmp_path / "online.gin").write_text("\n".join(on_host))
  progress = training.train(gin, bindings, tmp_path / "run")
  assert progress.done and progress.updates == progress.env_steps == 40
  assert progress.episodes.windows[None].returns == (-9.0,) * 4
  last = fakes.rows(tmp_path / "run")[-1]
  assert last["trace_norm"] > 0 and last["h_norm"] > 0 and last["param_norm"] > 0
  assert "run" not in fakes.rows(tmp_path / "run", "episodes")[0]


def test_the_grid_is_every_combination_with_the_same_seeds():
  runtime = IndependentRuns(settings={"a.x": (1.0, 2.0), "b.y": (3.0, 4.0)}, repeats=2)
  seeds, settings = runtime.grid(7)
  assert seeds == [7, 8] * 4
  assert settings == {"a.x": [1, 1, 1, 1, 2, 2, 2, 2], "b.y": [3, 3, 4, 4, 3, 3, 4, 4]}
  assert IndependentRuns(repeats=3).grid(0) == ([0, 1, 2], {})


def test_what_a_row_says_of_several_runs():
  row = summary({"u": np.array([1.0, np.nan, 3.0]), "v": np.array([np.inf, np.inf, np.inf])})
  assert row == {"u": 2.0, "u/least": 1.0, "u/greatest": 3.0, "v": np.inf}
  assert summary({"u": np.array([4.0])}) == {"u": 4.0}


def test_histograms_of_each_run_and_of_all(gin, tmp_path):
  bindings = (
    *("tuner = @metatrace_vector()", "runs.run_writers = (@jsonl(),)", "runs.episodes = 2"),
    "runs.settings = {'ac_lambda.alpha': (0.01, 0.02)}",
  )
  training.train(gin, bindings, tmp_path / "run")
  last = fakes.rows(tmp_path / "run", "histograms")[-1]
  own = [fakes.rows(tmp_path / "run" / "runs" / f"00{n}", "histograms")[-1] for n in range(4)]
  counts = [sum(row["counts"]) for row in own]
  assert counts == [counts[0]] * 4 and sum(last["counts"]) == sum(counts) > 100
  edges = np.array([row["edges"] for row in own])
  np.testing.assert_allclose((last["edges"][0], last["edges"][-1]), (edges.min(), edges.max()))
  for n, row in enumerate(own):
    assert row["name"] == "beta" and len(row["counts"]) == BINS
    mean = fakes.rows(tmp_path / "run" / "runs" / f"00{n}")[-1]["beta/mean"]
    assert row["edges"][0] < mean < row["edges"][-1]
    assert abs(mean - np.log((0.01, 0.02)[n // 2])) < 0.1


def test_what_was_logged_of_each_run_before_a_checkpoint_is_on_the_disk(gin, tmp_path, monkeypatch):
  append, save, seen = _Files.append, Checkpointer.save, []

  def slowly(self, *text):
    time.sleep(0.05)
    append(self, *text)

  def saved(self, step, state, host):
    own = [fakes.rows(tmp_path / "run" / "runs" / f"00{n}")[-1]["env_steps"] for n in range(4)]
    seen.append(own)
    assert own == state.env_steps.tolist()
    save(self, step, state, host)

  monkeypatch.setattr(_Files, "append", slowly)
  monkeypatch.setattr(Checkpointer, "save", saved)
  bindings = ("runs.run_writers = (@jsonl(),)", "runs.episodes = 1")
  training.train(gin, (*bindings, "train.checkpoint_seconds = 0.0"), tmp_path / "run")
  assert seen


@pytest.mark.parametrize(
  "binding, message",
  [
    ("runs.settings = {'metatrace.nu': (1.0,)}", "Did you mean 'metatrace.mu'"),
    (
      "runs.settings = {'ac_lambda.alpha': (0.1, -1)}",
      "ac_lambda.alpha' takes float above 0, not -1",
    ),
    ("runs.settings = {'ac_lambda.alpha': ()}", r"settings\['ac_lambda.alpha'\] has no values"),
    ("runs.settings = {'train.seed': (0.5,)}", "holds 0.5; a seed is int from 0 to 2"),
    ("runs.settings = {'train.seed': (0, -1)}", "holds -1; a seed is int from 0 to 2"),
    ("train.micro_batch = 2", "train.micro_batch = 2 does not divide the 1 trajectories"),
    ("runs.repeats = 0", "runs.repeats takes int at least 1, not 0"),
    (f"train.seed = {2**32 - 1}", f"runs.repeats makes a seed of {2**32}; a seed is from 0 to"),
    ("train.total_env_steps = 2_147_483_647", "to 2_147_483_647; write at most 2_147_483_646"),
    ("runs.episodes = 3_000_000_000", "not 3000000000. It is at most 2_147_483_647"),
    ("ac_lambda.groups = {'noise': (5, 5)}", r"groups\['noise'\] = \(5, 5\): a range begins at 0"),
    ("train.num_envs = 2", "train.unroll_length = 1 and train.num_envs = 1"),
  ],
)
def test_mistakes(gin, tmp_path, binding, message):
  with pytest.raises(UserError, match=message):
    training.train(gin, (binding,), tmp_path / "run")
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("setting", ["repeats", "iterations"])
def test_what_no_machine_holds_is_refused_before_it_is_tried(gin, tmp_path, setting):
  with pytest.raises(RunError, match=r"runs takes at least .* GB of memory; this machine has"):
    training.train(gin, (f"runs.{setting} = 2_000_000_000",), tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_a_configuration_is_checked_to_its_first_state_where_that_needs_no_environment(gin):
  training.rehearse(config.load(gin).root)
  three = ["tile_coding.low = (0.0, 0.0, 0.0)", "tile_coding.high = (1.0, 1.0, 1.0)"]
  for bindings, words in (
    (["train.unroll_length = 2"], "ac_lambda learns from one transition of one stream, not from 2"),
    (three, "'tile_coding' has bounds of 3 coordinates"),
  ):
    with pytest.raises(UserError, match=words):
      training.rehearse(config.load(gin, bindings).root)


@pytest.mark.slow
def test_an_integer_in_gin_can_be_a_setting(gin, tmp_path):
  bindings = ("ac_lambda.entropy = 0", "runs.settings = {'ac_lambda.entropy': (0, 0.1)}")
  done = training.train(gin, (*bindings, "train.total_env_steps = 30"), tmp_path / "run")
  assert done.env_steps == 4 * 30  # and no more, though a look at the host comes later


@pytest.mark.slow
def test_a_row_says_of_all_runs_the_mean_of_what_it_says_of_each(gin, tmp_path):
  bindings = ("runs.run_writers = (@jsonl(),)", "runs.settings = {}", "runs.repeats = 3")
  training.train(gin, bindings, tmp_path / "run")
  each = [fakes.rows(tmp_path / "run" / "runs" / f"00{n}")[-1] for n in range(3)]
  (last,) = fakes.rows(tmp_path / "run")[-1:]
  for name in ("episode_return", "episode_length"):
    np.testing.assert_allclose(last[name], np.mean([row[name] for row in each]), rtol=1e-6)


def test_weights_of_another_run_are_for_one_agent(gin, tmp_path):
  with pytest.raises(UserError, match="--init-from is for one agent"):
    training.train(gin, (), tmp_path / "run", init_from=str(tmp_path / "other"))
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["metatrace_mountain_car", "metatrace_drifting_mountain_car"])
def test_packaged_experiments(name):
  loaded = config.load(f"experiments/{name}")
  assert isinstance(loaded.root.runtime, IndependentRuns)
  assert json.dumps(loaded.flat)

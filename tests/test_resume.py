"""Resumed runs: nothing but the environments begins anew, whatever ended the run before."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import fakes
import jax
import numpy as np
import pytest

from selftune.core import train as training
from selftune.core.api.errors import NonFiniteError, RunError
from selftune.core.api.types import TimeStep, Trajectory
from selftune.core.engine.actor import Actor, Interrupted, Rollout
from selftune.core.engine.loop import Progress
from selftune.core.record.checkpoint import Checkpointer
from selftune.plugins.writers.jsonl import _Files

THIRD_PARTY = Path(__file__).parent / "third_party"
SELF_TUNED = (
  "agent.metaopt = @metagradient()",
  "metagradient.tune = ('vtrace.gamma', '*.cost', 'rmsprop.learning_rate')",
  "metagradient.learning_rate = 0.1",
  "metagradient.eta_init = 0.0",
  "rmsprop.learning_rate = 0.01",
)
CATCH = (
  "train.env = @envpool()",
  "train.num_envs = 8",
  "train.checkpoint_seconds = 0.2",
)


pytestmark = pytest.mark.usefixtures("compiled_once")


def recorded(index, b=4, t=5):
  """Batch `index` of a stream that is the same whenever it is read."""
  rng = np.random.default_rng(index)
  first = rng.random((t + 1, b)) < 0.2
  timestep = TimeStep(
    rng.normal(size=(t + 1, b, 4)).astype(np.float32),
    np.where(first, 0, rng.normal(size=(t + 1, b))).astype(np.float32),
    np.where(rng.random((t + 1, b)) < 0.2, 0, 1).astype(np.float32),
    first,
  )
  action = rng.integers(0, 3, (t, b)).astype(np.int32)
  behaviour = rng.normal(size=(t, b, 3)).astype(np.float32)
  core_state = rng.integers(0, 9, b).astype(np.float32)
  version = np.full((t, b), index, np.int32)
  episodes = [(float(index), 3)]
  trajectory = Trajectory(timestep, action, behaviour, core_state, version)
  return Rollout(trajectory, t * b, episodes, 0.0, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("outer_batch", ["same", "next"])
def test_updates_before_and_after_a_resume_equal_those_in_one_go(
  config, tmp_path, monkeypatch, outer_batch
):
  """N + M updates on a recorded stream of batches, in one run, and stopped after N and resumed."""
  stop_at = None

  def unroll(self, actor_params, version, index, stopping):
    if index == stop_at:
      os.kill(os.getpid(), signal.SIGTERM)
      while not stopping():
        time.sleep(0.001)
      raise Interrupted
    return recorded(index)

  monkeypatch.setattr(Actor, "unroll", unroll)
  bindings = (*SELF_TUNED, f"metagradient.outer_batch = '{outer_batch}'")
  whole = training.train(config, bindings, tmp_path / "whole")
  stop_at = 4
  assert training.train(config, bindings, tmp_path / "run").updates == 4
  half = list(fakes.RECORDED)
  stop_at = None
  progress = training.train(config, bindings, tmp_path / "run", resume=True)

  assert progress.updates == whole.updates == 6
  assert progress.episodes == whole.episodes
  assert progress.episodes.windows[None].returns == (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)
  state = fakes.checksums(tmp_path / "whole")
  assert "meta_state.etas['entropy.cost']" in state and "opt_state" in str(state)
  assert fakes.checksums(tmp_path / "run") == state
  assert fakes.checksums(tmp_path / "run", 4) != state
  assert [row["updates"] for row in half + fakes.RECORDED] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_a_finished_run_goes_on_when_given_more_steps(config, tmp_path, monkeypatch):
  run = tmp_path / "run"
  first = training.train(config, (), run)
  started = []

  def spy(experiment, run, logger, checkpoints, state, progress, *rest):
    started.extend([jax.device_get(state.params), progress, logger.wall_time])
    return loop_run(experiment, run, logger, checkpoints, state, progress, *rest)

  loop_run = training.run
  monkeypatch.setattr(training, "run", spy)
  saved = fakes.checksums(run)
  last = training.train(config, ["train.total_env_steps = 200"], run, resume=True)

  params, progress, wall_time = started
  for name, array in params.items():
    assert saved[f"params['{name}']"] == zlib.crc32(array.tobytes())
  assert progress.updates == first.updates == 6
  assert progress.env_steps == first.env_steps == 120
  assert progress.episodes == first.episodes and first.episodes.finished > 0
  assert 0 < progress.wall_time <= wall_time
  assert (last.updates, last.env_steps) == (10, 200)
  assert last.wall_time > first.wall_time
  assert last.episodes.finished > first.episodes.finished
  rows = fakes.rows(run)
  assert [r["env_steps"] for r in rows] == list(range(20, 201, 20))
  times = [r["wall_time"] for r in rows]
  assert times == sorted(times)
  assert [r["updates"] for r in rows] == list(range(1, 11))
  episodes = [e["env_steps"] for e in fakes.rows(run, "episodes")]
  assert episodes == sorted(episodes) and len(episodes) == last.episodes.finished


def assert_continuous(run, progress, killed_at):
  """The log of a run that was killed, and resumed from the checkpoint of update `killed_at`."""
  rows = fakes.rows(run)
  steps = [row["env_steps"] for row in rows]
  assert steps == sorted(set(steps)) and steps[-1] == progress.env_steps
  assert any(row["updates"] <= killed_at for row in rows)
  assert any(row["updates"] > killed_at for row in rows)
  times = [row["wall_time"] for row in rows]
  assert times == sorted(times)
  episodes = fakes.rows(run, "episodes")
  assert [e["env_steps"] for e in episodes] == sorted(e["env_steps"] for e in episodes)
  assert len(episodes) == progress.episodes.finished == rows[-1]["episodes"]
  starts = [json.loads(line) for line in (run / "restarts.jsonl").read_text().splitlines()]
  per_update = progress.env_steps // progress.updates
  assert [start["env_steps"] for start in starts] == [0, killed_at * per_update]
  first, second = [list(flatten(start["env_seeds"])) for start in starts]
  assert len(first) == len(second) == len({*first, *second}) / 2  # none is used again


def flatten(seeds):
  return itertools.chain(*map(flatten, seeds)) if isinstance(seeds, list) else [seeds]


def train_and_kill(config, run, *bindings, timeout=60):
  """Kills the run after its first checkpoint; returns the newest one."""
  with fakes.process(config, run, *bindings) as process:
    fakes.wait_for(lambda: fakes.checkpoints(run) or process.poll() is not None, timeout)
    seen = len(fakes.rows(run))
    fakes.wait_for(lambda: len(fakes.rows(run)) > seen or process.poll() is not None, timeout)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    assert process.returncode == -signal.SIGKILL, process.communicate()
  return fakes.checkpoints(run)[-1]


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["lockstep", "sebulba"])
def test_kill_9_and_resume(config, tmp_path, runtime):
  run = tmp_path / "run"
  bindings = (*CATCH, f"train.runtime = @{runtime}()")
  killed_at = train_and_kill(config, run, *bindings, "train.total_env_steps = 100_000_000")
  more = f"train.total_env_steps = {40 * (killed_at + 5)}"
  progress = training.train(config, [*bindings, more], run, resume=True)
  assert progress.updates == killed_at + 5
  assert_continuous(run, progress, killed_at)


@pytest.mark.long
@pytest.mark.slow
def test_kill_9_and_resume_atari(tmp_path):
  """STACX on Breakout, with a network that compiles quickly."""
  path = tmp_path / "breakout.gin"
  path.write_text(
    "include 'experiments/atari_stacx.gin'\n"
    "include 'networks/nature.gin'\n"
    "train.num_envs = 4\n"
    "train.unroll_length = 5\n"
    "train.cpu_micro_batch = None\n"
    "train.total_env_steps = 600\n"
    "train.log_seconds = 0.0\n"
    "train.checkpoint_seconds = 1.0\n"
    "train.writers = (@jsonl(),)\n"
  )
  run = tmp_path / "run"
  killed_at = train_and_kill(str(path), run, timeout=90)
  row = next(row for row in fakes.rows(run) if row["updates"] == killed_at)
  with fakes.process(str(path), run, resume=True) as process:
    out, err = process.communicate(timeout=90)
  assert f"resuming at update {killed_at}" in err
  progress = fakes.progress(out)
  assert (progress.updates, progress.env_steps) == (30, 600)
  assert_continuous(run, progress, killed_at)
  tuned = [name for name in row if name.startswith("tuned/")]
  assert len(tuned) == 3 * 6
  following = next(r for r in fakes.rows(run) if r["updates"] == killed_at + 1)
  for name in tuned:  # one small step of Adam on
    assert abs(following[name] - row[name]) < 0.01 * abs(row[name])


@pytest.mark.parametrize("seconds", ["0.0", "1e9"])  # between rows, and between checkpoints
@pytest.mark.parametrize("runtime", ["lockstep", "sebulba"])
def test_a_reward_that_is_not_a_number(config, tmp_path, runtime, seconds):
  bindings = [f"train.runtime = @{runtime}()", f"train.log_seconds = {seconds}"]
  bindings += ["train.checkpoints_to_keep = 9"]
  every, sick = "train.checkpoint_seconds = 0.0", tmp_path / "sick"
  healthy = training.train(config, [*bindings, every], tmp_path / "healthy")
  bindings += [f"train.checkpoint_seconds = {seconds}"]
  with pytest.raises(NonFiniteError) as caught:
    training.train(config, [*bindings, "counting.fault = 'nan'", "counting.at = 13"], sick)
  message = str(caught.value)
  assert message.startswith("'reward of env @counting()' was not finite in update 3; ")
  assert message.endswith("It is saved: --resume goes on from the checkpoint of update 2.")
  assert fakes.checkpoints(sick)[-1] == 2
  # The state before that update, whole, with the counters of that update.
  assert fakes.checksums(sick, 2) == fakes.checksums(tmp_path / "healthy", 2)
  saved, good = host_of(sick, 2), host_of(tmp_path / "healthy", 2)
  assert saved.pop("wall_time") > 0 and good.pop("wall_time") > 0
  assert saved == good and saved["updates"] == 2
  # Learning goes on from it: with other environments, or as here without the fault.
  text = (sick / "config.gin").read_text()
  (sick / "config.gin").write_text(text.replace("counting.fault = 'nan'", "counting.fault = ''"))
  again = [*bindings, "counting.fault = ''", "counting.at = 13"]
  progress = training.train(config, again, sick, resume=True)
  assert progress.updates == healthy.updates


def test_what_was_logged_before_a_checkpoint_is_on_the_disk(config, tmp_path, monkeypatch):
  """Else a kill would lose it, as a run that goes on from there does not write it again."""
  append, save, run, seen = _Files.append, Checkpointer.save, tmp_path / "run", []

  def slowly(self, *text):
    time.sleep(0.02)
    append(self, *text)

  def saved(self, step, state, host):
    seen.append((step, fakes.rows(run)[-1]["updates"]))
    assert len(fakes.rows(run, "episodes")) == Progress.from_json(host).episodes.finished
    save(self, step, state, host)

  monkeypatch.setattr(_Files, "append", slowly)
  monkeypatch.setattr(Checkpointer, "save", saved)
  training.train(config, ("train.checkpoint_seconds = 0.0",), run)
  assert seen == [(update, update) for update in (1, 2, 3, 4, 5, 6, 6)]


def host_of(run, update):
  """The counters of a checkpoint."""
  path = run / "checkpoints" / str(update) / "document" / "metadata"
  return json.loads(path.read_text())["host"]


def test_a_first_update_that_is_not_finite_leaves_the_first_state(config, tmp_path):
  fault = ("counting.fault = 'nan'", "counting.at = 1")
  for resume in (False, True, True):  # from it, too
    with pytest.raises(NonFiniteError, match=r"not finite in update 1; .* checkpoint of update 0"):
      training.train(config, fault, tmp_path / "run", resume)
    assert fakes.checkpoints(tmp_path / "run") == [0]
  assert not (tmp_path / "run" / "before-1").exists()  # there is a checkpoint that it goes on from


@pytest.mark.parametrize("kind", [RunError, OSError])
def test_a_last_good_state_that_cannot_be_saved(kind, config, tmp_path, monkeypatch):
  def fail(*_):
    raise kind("the disk is full")

  monkeypatch.setattr(Checkpointer, "save", fail)
  fault = ("counting.fault = 'nan'", "counting.at = 13", "train.checkpoint_seconds = 1e9")
  with pytest.raises(NonFiniteError, match=r"in update 3; .* It is not saved: the disk is full"):
    training.train(config, fault, tmp_path / "run")


@pytest.mark.slow
def test_an_installed_plugin_tunes_itself(tmp_path):
  """The example package: nothing but its metadata and a gin file say that it exists."""
  source, target, run = tmp_path / "source", tmp_path / "target", tmp_path / "run"
  shutil.copytree(THIRD_PARTY, source)
  pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
  subprocess.run([*pip, "--target", str(target), str(source)], check=True, timeout=120)
  path = tmp_path / "mine.gin"
  path.write_text(
    "include 'algos/stac.gin'\n"
    "include 'suites/small.gin'\n"
    "include 'envs/catch.gin'\n"
    "objective.losses = (@policy_gradient(), @value(), @entropy(), @logit_norm())\n"
    "metagradient.tune = ('logit_norm.cost',)\n"
    "train.total_env_steps = 3200\n"
    "train.log_seconds = 0.0\n"
  )
  code = "import sys; from selftune.core.commands.cli import main; sys.exit(main(sys.argv[1:]))"
  subprocess.run(
    [sys.executable, "-c", code, "train", str(path), "--workdir", str(run)],
    env={**os.environ, "PYTHONPATH": os.pathsep.join([str(target), *sys.path])},
    check=True,
    timeout=120,
  )
  rows = fakes.rows(run)
  assert len(rows) == 5
  etas = [row["tuned/logit_norm.cost/0"] for row in rows]
  assert len(set(etas)) == 5  # it moves at every update
  assert all(0 < eta < 0.01 for eta in etas)  # below the configured value, as SCALE is
  assert all(row["metagrad/logit_norm.cost/0"] != 0 for row in rows)
  assert all(row["logit_norm/0"] > 0 for row in rows)

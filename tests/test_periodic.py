"""Evaluation beside training: it changes no number of it, and ends with it."""

import os
import signal
import threading
import time
import types
from pathlib import Path

import fakes
import pytest
from imageio.v2 import mimread

from selftune.core import train as training
from selftune.core.api.errors import UserError
from selftune.core.api.types import Episode
from selftune.core.commands.cli import main
from selftune.core.evaluation import periodic
from selftune.core.evaluation.playing import Played
from selftune.core.evaluation.scored import Scored
from selftune.core.experiment import Evaluation
from selftune.core.record import plotting
from selftune.core.record.logging import Logger

LOCKSTEP, SEBULBA = (), ("train.runtime = @sebulba()", "sebulba.actors = 2", "sebulba.groups = 1")
EVALUATION = (
  "train.evaluation = @evaluation()",
  "evaluation.every_env_steps = 40",
  "evaluation.episodes = 3",
  "evaluation.num_envs = 2",
)
TIMES = ("wall_time", "steps_per_second", "queue_wait", "env_wait", "act_time")
SUBJECT = periodic.Subject(fakes.Counting(), None, 5, 0, (0, 1), Path("videos"))


pytestmark = pytest.mark.usefixtures("compiled_once")


def assert_all_is_closed():
  names = [t.name for t in threading.enumerate()]
  assert not [n for n in names if n.startswith(("evaluation", "actor-", "log-"))]
  assert fakes.OPENED and all(pool.closed for pool in fakes.OPENED)


def train(config, path, *bindings):
  training.train(config, bindings, path)
  rows = [{k: v for k, v in row.items() if k not in TIMES} for row in fakes.RECORDED]
  return rows, fakes.checksums(path)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", [LOCKSTEP, SEBULBA], ids=["lockstep", "sebulba"])
def test_training_is_the_same_to_the_bit_with_and_without(config, tmp_path, runtime):
  alone = train(config, tmp_path / "alone", *runtime)
  trained_in = {int(seed) for pool in fakes.OPENED for seed in pool.seeds}
  fakes.OPENED.clear()
  assert train(config, tmp_path / "evaluated", *runtime, *EVALUATION) == alone
  assert not (tmp_path / "alone" / "eval.jsonl").exists()
  rows = fakes.rows(tmp_path / "evaluated", "eval")
  assert rows[0]["env_steps"] == 0 and {row["env_steps"] for row in rows} <= {0, 40, 80, 120}
  assert [row["episodes"] for row in rows] == [3] * len(rows)
  assert all(row["min"] <= row["mean"] <= row["max"] for row in rows)
  own = [p for p in fakes.OPENED if not {int(seed) for seed in p.seeds} & trained_in]
  assert len(own) == len(rows) and all((p.seeds == own[0].seeds).all() for p in own)
  assert_all_is_closed()


@pytest.fixture
def held(monkeypatch):
  """Evaluations that last until `release` is set, and score the parameters."""
  release, played = threading.Event(), []

  def play(agent, params, pool, *rest):
    played.append(params)
    while not release.wait(0.01):
      rest[-1][0](None, 0)  # the watcher
    return Played([Episode(0, params, 7)] * 2, 0, 0)

  monkeypatch.setattr(periodic, "play", play)
  monkeypatch.setattr(
    periodic, "summary", lambda env, played: {"mean": played.episodes[0].episode_return}
  )
  return release, played


def log_of(rows):
  return types.SimpleNamespace(log_evaluation=rows.append, flush=lambda: None)


def test_what_is_due_meanwhile_is_skipped_and_counted(held, tmp_path):
  release, played = held
  rows = []
  scored = Scored(tmp_path)
  scored.write(20, 20)
  it = periodic.Evaluator(Evaluation(every_env_steps=10), SUBJECT, log_of(rows), scored, 20)
  for env_steps in (20, 29, 31, 33, 40, 49, 50):  # due at 30, 40, 50
    it.offer(env_steps, env_steps)
  release.set()
  fakes.wait_for(lambda: len(rows) == 1 and not it._busy.is_set())
  it.offer(59, 59)
  it.offer(75, 75)
  it.finish(lambda: False)
  it.close()
  assert [row["env_steps"] for row in rows] == [31, 75] and played == [31, 75]
  assert [row["skipped"] for row in rows] == [0, 2]
  assert [row["mean"] for row in rows] == [31, 75]
  assert it._failure is None and not it._thread.is_alive()


def test_what_training_ends_with_is_scored_though_one_was_under_way(held, tmp_path):
  release, played = held
  rows = []
  scored = Scored(tmp_path)
  it = periodic.Evaluator(Evaluation(every_env_steps=10), SUBJECT, log_of(rows), scored, 0)
  for env_steps in (0, 10, 17):
    it.offer(env_steps, env_steps)
  release.set()
  it.finish(lambda: False)
  it.close()
  assert [row["env_steps"] for row in rows] == [0, 17] and played == [0, 17]


def test_episodes_that_do_not_end_are_cut_and_the_run_ends(config, tmp_path, caplog):
  train(config, tmp_path / "run", *EVALUATION, "evaluation.max_steps = 1")
  rows = fakes.rows(tmp_path / "run", "eval")
  assert rows[-1]["env_steps"] == 120
  assert {(row["episodes"], row["cut"], row["length"]) for row in rows} == {(2, 2, 1.0)}
  assert (
    "of the evaluation at 120 env steps, 2 of 2 episodes did not end within evaluation.max_steps = "
    "1: cut there, with the return so far. 1 more were not played" in caplog.text
  )


def test_an_evaluation_that_goes_on_ends_with_a_signal(config, held, tmp_path, monkeypatch):
  write = fakes.RecorderLog.write

  def write_and_signal(self, row):
    write(self, row)
    if len(fakes.RECORDED) == 3:
      os.kill(os.getpid(), signal.SIGTERM)

  monkeypatch.setattr(fakes.RecorderLog, "write", write_and_signal)
  steps = ("train.total_env_steps = 20_000", "counting.step_seconds = 0.002")
  start = time.monotonic()
  progress = training.train(config, [*EVALUATION, *steps], tmp_path / "run")
  assert 3 <= progress.updates < 1000 and time.monotonic() - start < fakes.SOON
  assert fakes.checkpoints(tmp_path / "run") == [progress.updates]
  assert fakes.rows(tmp_path / "run", "eval") == []
  assert_all_is_closed()


@pytest.mark.parametrize(
  ("written", "begun", "due"),
  [
    (None, (0, 0), 0),
    (None, (70, 70), 0),  # an older run, or one that was killed in its first evaluation
    ((40, 40), (0, 0), 0),  # begun anew, without its rows
    ((40, 40), (70, 70), 80),
    ((40, 40), (80, 80), 80),  # killed in the one of 80
    ((43, 43), (130, 130), 80),
    ((82, 82), (70, 70), 80),  # beyond the checkpoint: it is made again
    ((164, 82), (190, 95), 120),  # of two runs
    ((164, 82), (240, 120), 120),
    ((164, 82), (100, 50), 80),
  ],
)
def test_what_was_not_written_is_due_again(written, begun, due, tmp_path):
  if written is not None:
    Scored(tmp_path).write(*written)
  assert Scored(tmp_path).due(40, *begun) == due
  # What lies beyond the checkpoint is owed once the run is there again.
  if written is not None and written[0] > begun[0]:
    assert Scored(tmp_path).owed(written[0])


def test_scores_count_once_they_are_written(tmp_path):
  scored = Scored(tmp_path)
  assert scored.owed(40)
  scored.write(40, 40)
  assert [scored.owed(n) for n in (39, 40, 41)] == [False, False, True]


def test_scores_that_cannot_be_logged_are_owed(config, tmp_path, monkeypatch):
  flush = Logger.flush

  def failing(self, *args):
    if threading.current_thread().name == "evaluation":
      raise fakes.ERROR
    flush(self, *args)

  monkeypatch.setattr(Logger, "flush", failing)
  with pytest.raises(type(fakes.ERROR)):
    training.train(config, EVALUATION, tmp_path / "run")
  assert Scored(tmp_path / "run").owed(0)


@pytest.fixture
def interrupted(monkeypatch):
  """Evaluations that end, from the `at`-th on, as a kill or a signal ends them; 0 ends none."""
  how, played, real = types.SimpleNamespace(by="kill", at=0), [], periodic.play

  def play(*args):
    played.append(args)
    if not how.at or len(played) < how.at:
      return real(*args)
    if how.by == "kill":
      raise fakes.ERROR  # with the checkpoint on the disk, and no step of an orderly end
    os.kill(os.getpid(), signal.SIGTERM)
    while True:
      args[-1][0](None, 0)  # the watcher
      time.sleep(0.001)

  monkeypatch.setattr(periodic, "play", play)
  return how


ONCE = (*EVALUATION[:1], "evaluation.every_env_steps = 1000", *EVALUATION[2:])  # and at the end


@pytest.mark.parametrize(
  ("runtime", "by"), [(LOCKSTEP, "kill"), pytest.param(SEBULBA, "signal", marks=pytest.mark.slow)]
)
def test_the_last_scores_are_made_up_for(config, tmp_path, monkeypatch, interrupted, runtime, by):
  drawn = []
  monkeypatch.setattr(plotting, "plot", lambda _, out: drawn.append(out) or out.touch() or out)
  scores = lambda path: [row | {"seconds": 0} for row in fakes.rows(path, "eval")]
  train(config, tmp_path / "whole", *runtime, *ONCE)
  run, bindings = tmp_path / "run", (*runtime, *ONCE)
  interrupted.by, interrupted.at = by, 4  # after the two of `whole`, and the first of `run`
  if by == "kill":
    with pytest.raises(RuntimeError):
      training.train(config, bindings, run)
  else:
    assert not training.finish(config, bindings, run) and not (run / "done").exists()
  assert fakes.checkpoints(run)[-1] == 6 and len(scores(run)) == 1
  assert drawn == [tmp_path / "whole" / "curves.png"]
  interrupted.at = 0
  assert training.finish(config, bindings, run) and (run / "done").exists()
  assert scores(run) == scores(tmp_path / "whole") and len(scores(run)) == 2
  assert [row["env_steps"] for row in fakes.rows(run)] == list(range(20, 121, 20))
  assert fakes.checksums(run) == fakes.checksums(tmp_path / "whole")
  assert drawn[1:] == [run / "curves.png"]
  assert_all_is_closed()
  # Killed before the curves: they are drawn, and nothing is scored again.
  (run / "curves.png").unlink()
  assert training.train(config, bindings, run, resume=True).done
  assert drawn[1:] == [run / "curves.png"] * 2 and len(scores(run)) == 2


def test_a_run_that_is_not_scored_is_said_to_be_stopped(config, tmp_path, interrupted, capfd):
  interrupted.by, interrupted.at = "signal", 2
  command = ["train", config, "--workdir", str(tmp_path / "run"), *(f"--bind={b}" for b in ONCE)]
  assert main(command) == 0
  assert "Stopped after 120 env steps. Resume with:" in capfd.readouterr().out
  interrupted.at = 0
  assert main([*command, "--resume"]) == 0
  assert "Trained 120 env steps" in capfd.readouterr().out
  assert main([*command, "--resume"]) == 0
  assert "has made 120 of 120 env steps already" in capfd.readouterr().err


def test_an_evaluation_that_a_stop_ended_is_made_when_the_run_goes_on(
  config, tmp_path, interrupted
):
  interrupted.by, interrupted.at = "signal", 2
  run = tmp_path / "run"
  slow = ("train.total_env_steps = 200_000", "counting.step_seconds = 0.002")
  stopped = training.train(config, (*EVALUATION, *slow), run)
  assert 40 <= stopped.env_steps < 200_000
  interrupted.at = 0
  less = f"train.total_env_steps = {stopped.env_steps + 20}"
  training.train(config, (*EVALUATION, *slow, less), run, resume=True)
  rows = fakes.rows(run, "eval")
  assert [row["env_steps"] for row in rows[:2]] == [0, stopped.env_steps]


def test_one_that_hangs_is_left_behind(config, tmp_path, monkeypatch, caplog):
  monkeypatch.setattr(periodic, "play", lambda *_: fakes.release.wait(60))
  monkeypatch.setattr(periodic, "JOIN", 0.2)
  it = periodic.Evaluator(Evaluation(), SUBJECT, None, Scored(tmp_path), 0)
  it.offer(0, None)
  it.finish(lambda: True)
  it.close()
  assert "the evaluation did not end within 0 s: does it hang?" in caplog.text
  fakes.release.set()
  it._thread.join(5)


@pytest.mark.parametrize(
  ("runtime", "at"), [(LOCKSTEP, 1), (SEBULBA, 120)], ids=["early", "after the last update"]
)
def test_a_failure_ends_the_run(config, tmp_path, monkeypatch, runtime, at):
  def play(*_):
    if at == 120:
      fakes.wait_for(lambda: fakes.checkpoints(tmp_path / "run") == [6])
    raise fakes.ERROR

  monkeypatch.setattr(periodic, "play", play)
  slow = ("counting.step_seconds = 0.02",) if at == 1 else ()
  with pytest.raises(RuntimeError) as caught:
    train(config, tmp_path / "run", *runtime, *EVALUATION, *slow)
  assert caught.value is fakes.ERROR
  assert (fakes.checkpoints(tmp_path / "run") == [6]) == (at == 120)
  assert_all_is_closed()


def test_what_cannot_be_written_ends_the_run_in_one_line(
  config, held, tmp_path, capfd, monkeypatch
):
  held[0].set()
  (tmp_path / "run").mkdir()
  (tmp_path / "run" / "eval.jsonl").symlink_to(tmp_path / "absent" / "eval.jsonl")
  monkeypatch.setattr(periodic, "summary", lambda env, played: {"mean": 0.5})
  bind = [f"--bind={b}" for b in EVALUATION]
  assert main(["train", config, "--workdir", str(tmp_path / "run"), *bind]) == 1
  err = capfd.readouterr().err
  said = f"selftune: cannot write {tmp_path}/run/eval.jsonl: No such file or directory. Checkpoints"
  assert said in err


@pytest.mark.slow
def test_each_can_be_recorded(config, tmp_path):
  catch = ("train.env = @envpool()", "evaluation.video = True")
  training.train(config, [*EVALUATION, *catch], tmp_path / "run")
  rows = fakes.rows(tmp_path / "run", "eval")
  videos = [tmp_path / "run" / "videos" / f"{row['env_steps']}.mp4" for row in rows]
  assert videos and fakes.MEDIA[: len(rows)] == [("eval/video", path) for path in videos]
  assert [len(mimread(path)) for path in videos] == [10] * len(rows)  # FIRST and nine steps


def test_what_cannot_be_recorded_is_refused_before_anything_is_made(config, tmp_path):
  with pytest.raises(UserError, match="video = True: environments of counting cannot be drawn"):
    training.train(config, [*EVALUATION, "evaluation.video = True"], tmp_path / "run")
  assert not (tmp_path / "run").exists() and not fakes.OPENED


@pytest.mark.slow
def test_a_resumed_run_may_be_evaluated_otherwise(config, tmp_path):
  run = tmp_path / "run"
  training.train(config, EVALUATION[:2], run)
  (run / "eval.jsonl").write_text('{"env_steps": 0}\n{"env_steps": 130}\n')
  more = ("train.total_env_steps = 240", "evaluation.episodes = 6")
  training.train(config, [*EVALUATION[:2], *more], run, resume=True)
  rows = fakes.rows(run, "eval")
  assert rows[0] == {"env_steps": 0} and {r["env_steps"] for r in rows[1:]} <= {160, 200, 240}
  assert {r["episodes"] for r in rows[1:]} == {6}


def test_numbers_that_make_no_sense():
  with pytest.raises(ValueError, match="num_envs = 3 must be at most episodes = 2"):
    Evaluation(episodes=2, num_envs=3)

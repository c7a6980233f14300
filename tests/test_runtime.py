"""Runtimes: the same numbers from each, and how runs end: faults, hangs, signals."""

import itertools
import os
import signal
import threading
import time

import fakes
import pytest

from selftune.core import train as training
from selftune.core.engine import loop
from selftune.core.engine.actor import Actor
from selftune.core.engine.learner import Learner
from selftune.core.machine import process

TIMES = ("wall_time", "steps_per_second", "queue_wait", "env_wait", "act_time")
LOCKSTEP, SEBULBA = (), ("train.runtime = @sebulba()",)
LAG_0 = (*SEBULBA, "sebulba.lag = 0")
TWO_ACTORS = (*SEBULBA, "sebulba.actors = 2", "sebulba.groups = 1")


pytestmark = pytest.mark.usefixtures("compiled_once")


def train(config, path, *bindings):
  """Returns the rows without what differs from run to run, and the checksums of the last state."""
  training.train(config, bindings, path)
  rows = [{k: v for k, v in row.items() if k not in TIMES} for row in fakes.RECORDED]
  return rows, fakes.checksums(path)


def threads():
  return [t.name for t in threading.enumerate() if t.name.startswith(("actor-", "log-"))]


def test_sebulba_at_lag_0_equals_lockstep_to_the_bit(config, tmp_path):
  rows, state = train(config, tmp_path / "lockstep", *LOCKSTEP)
  again = train(config, tmp_path / "sebulba", *LAG_0)
  assert len(rows) == 6 and rows[-1]["updates"] == 6
  assert [row["policy_lag"] for row in rows] == [0.0] * 6
  assert rows == again[0]
  assert "params['policy']" in state and state == again[1]
  assert threads() == []
  assert [pool.closed for pool in fakes.OPENED] == [True] * 4


@pytest.mark.parametrize("lag", [1, 3])
def test_lag_is_measured_and_the_run_deterministic(config, tmp_path, lag):
  bindings = (*TWO_ACTORS, f"sebulba.lag = {lag}")
  rows, state = train(config, tmp_path / "a", *bindings)
  again = train(config, tmp_path / "b", *bindings)
  assert [row["policy_lag"] for row in rows] == [min(k, lag) for k in range(6)]
  assert rows == again[0]
  assert state == again[1]


def assert_all_is_closed():
  assert threads() == []
  assert fakes.OPENED and all(pool.closed for pool in fakes.OPENED)


@pytest.mark.parametrize("bindings", [LOCKSTEP, TWO_ACTORS], ids=["lockstep", "sebulba"])
@pytest.mark.parametrize("fault", ["recv", "send"])
def test_a_failing_environment_ends_the_run(config, tmp_path, bindings, fault):
  bindings = (*bindings, f"counting.fault = '{fault}'", "counting.at = 12")
  with pytest.raises(RuntimeError) as caught:
    train(config, tmp_path / "run", *bindings)
  ended = time.monotonic()
  assert caught.value is fakes.ERROR
  assert ended - min(pool.failed_at for pool in fakes.OPENED if pool.failed_at) < fakes.SOON
  assert_all_is_closed()


def failing(function, at):
  """The function, but its `at`-th call raises `ERROR` and writes down when."""
  calls = []

  def call(*args):
    calls.append(time.monotonic())
    if len(calls) == at:
      raise fakes.ERROR
    return function(*args)

  return call, calls


@pytest.mark.parametrize("bindings", [LOCKSTEP, TWO_ACTORS], ids=["lockstep", "sebulba"])
@pytest.mark.parametrize("part", [Learner.update, Learner.put, Actor.unroll])
def test_a_failing_part_ends_the_run(config, tmp_path, monkeypatch, bindings, part):
  owner = Actor if part.__qualname__.startswith("Actor") else Learner
  call, calls = failing(part, 3)
  monkeypatch.setattr(owner, part.__name__, call)
  with pytest.raises(RuntimeError) as caught:
    train(config, tmp_path / "run", *bindings)
  assert caught.value is fakes.ERROR
  assert time.monotonic() - calls[-1] < fakes.SOON
  assert_all_is_closed()


@pytest.mark.parametrize("bindings", [LOCKSTEP, TWO_ACTORS], ids=["lockstep", "sebulba"])
@pytest.mark.parametrize("row", [2, 5])  # 5 is the last: it fails while the log is closed
def test_a_failing_required_writer_ends_the_run(config, tmp_path, bindings, row):
  with pytest.raises(OSError) as caught:
    train(config, tmp_path / "run", *bindings, f"recorder.fails_at = {row}")
  assert caught.value is fakes.WRITER_ERROR
  assert_all_is_closed()


def test_what_failed_first_is_what_ends_the_run(config, tmp_path, monkeypatch):
  """Closing fails too, and every actor fails: neither hides the first failure."""
  errors = [RuntimeError("first"), RuntimeError("second")]
  failed = threading.Event()

  def unroll(self, actor_params, version, index, stopping):
    if threading.current_thread().name == "actor-0":
      failed.set()
      raise errors[0]
    assert failed.wait(10)
    time.sleep(0.2)
    raise errors[1]

  def close(self):
    raise OSError("and this, too")

  monkeypatch.setattr(Actor, "unroll", unroll)
  monkeypatch.setattr(fakes.CountingPool, "close", close)
  with pytest.raises(RuntimeError) as caught:
    train(config, tmp_path / "run", *TWO_ACTORS)
  assert caught.value is errors[0]
  assert threads() == []


def test_a_hanging_environment_does_not_hold_up_a_failure(config, tmp_path, monkeypatch, caplog):
  started = []

  def update(self, state, batch, phase):
    fakes.wait_for(lambda: all(pool.failed_at for pool in fakes.OPENED))
    started.append(time.monotonic())
    raise fakes.ERROR

  monkeypatch.setattr(Learner, "update", update)
  hang = ("counting.fault = 'hang'", "counting.at = 8")
  with pytest.raises(RuntimeError) as caught:
    train(config, tmp_path / "run", *TWO_ACTORS, *hang)
  assert caught.value is fakes.ERROR
  assert time.monotonic() - started[0] < fakes.SOON
  hung = [t for t in threading.enumerate() if t.name.startswith("actor-")]
  for thread, pool in zip(hung, fakes.OPENED, strict=True):
    assert f"{thread.name} did not end within 3 s: does its environment hang?" in caplog.text
    assert thread.daemon and not pool.closed  # it may be stepping still
  fakes.release.set()
  for thread in hung:
    thread.join(5)
  assert threads() == []


def signals_at_row(monkeypatch, row, number):
  """Sends this process a signal when a row is written: the run is in the middle of an update."""
  write = fakes.RecorderLog.write

  def write_and_signal(self, written):
    write(self, written)
    if len(fakes.RECORDED) == row:
      os.kill(os.getpid(), number)

  monkeypatch.setattr(fakes.RecorderLog, "write", write_and_signal)


@pytest.mark.parametrize("number", process.SIGNALS)
@pytest.mark.parametrize("bindings", [LOCKSTEP, TWO_ACTORS], ids=["lockstep", "sebulba"])
def test_a_signal_saves_and_stops(config, tmp_path, monkeypatch, capfd, bindings, number):
  before = [signal.getsignal(n) for n in process.SIGNALS]
  signals_at_row(monkeypatch, 3, number)
  steps = ("train.total_env_steps = 20_000", "counting.step_seconds = 0.002")
  progress = training.train(config, [*bindings, *steps], tmp_path / "run")
  assert 3 <= progress.updates < 1000
  assert progress.env_steps == 20 * progress.updates
  assert fakes.checkpoints(tmp_path / "run") == [progress.updates]
  assert "saving and stopping" in capfd.readouterr().err
  assert [signal.getsignal(n) for n in process.SIGNALS] == before
  assert_all_is_closed()


def test_a_second_interrupt_ends_the_run_at_once(config, tmp_path):
  """The first one cannot: the environment hangs."""
  ended = {}

  def interrupt():
    fakes.wait_for(lambda: any(pool.failed_at for pool in fakes.OPENED))
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.5)
    ended["second"] = time.monotonic()
    os.kill(os.getpid(), signal.SIGINT)

  before = signal.getsignal(signal.SIGINT)
  thread = threading.Thread(target=interrupt)
  thread.start()
  bindings = ("counting.fault = 'hang'", "counting.at = 13", "train.checkpoint_seconds = 0.0")
  with pytest.raises(KeyboardInterrupt):
    train(config, tmp_path / "run", *bindings)
  assert time.monotonic() - ended["second"] < fakes.SOON
  thread.join(5)
  assert fakes.checkpoints(tmp_path / "run") == [1, 2]  # what was saved before, whole
  assert signal.getsignal(signal.SIGINT) is before
  assert_all_is_closed()


@pytest.mark.slow
def test_a_process_whose_environment_hangs_obeys_sigterm(config, tmp_path):
  run = tmp_path / "run"
  bindings = (*TWO_ACTORS, "counting.fault = 'hang'", "counting.at = 17")
  with fakes.process(config, run, *bindings) as process:
    fakes.wait_for(lambda: len(fakes.rows(run)) == 3)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=8)
  assert process.returncode == 0, err
  assert fakes.progress(out).updates == 3 == fakes.checkpoints(run)[-1]


class Pending:
  """Stands for a metric that the device has not computed yet."""

  def __init__(self, events, update):
    self._events, self._update = events, update

  def block_until_ready(self):
    self._events.append(f"wait {self._update}")
    return self


def test_at_most_two_updates_are_under_way(config, tmp_path, monkeypatch):
  """More of them could lock up the devices of a CPU, which wait for each other."""
  events = []

  def update(self, state, batch, phase):
    number = sum(event.startswith("update") for event in events)
    events.append(f"update {number}")
    return state, {"x": Pending(events, number), "failure": -1}

  monkeypatch.setattr(Learner, "update", update)
  monkeypatch.setattr(Learner, "check", lambda self, metrics: None)
  monkeypatch.setattr(loop, "save", lambda *args: None)
  training.train(config, ["train.log_seconds = 1e9", "train.writers = ()"], tmp_path / "run")
  later = [(f"update {k}", f"wait {k - 1}") for k in range(1, 6)]
  assert events == ["update 0", *itertools.chain(*later)]


@pytest.mark.slow
def test_many_updates_on_two_devices_with_actors_beside_them(config, tmp_path):
  """XLA ends the process when the two wait for each other longer than these seconds."""
  flags = (
    "--xla_force_host_platform_device_count=2 --xla_cpu_multi_thread_eigen=false "
    "--xla_cpu_collective_call_terminate_timeout_seconds=20"
  )
  bindings = ("train.learner_devices = (0, 1)", "train.log_seconds = 1e9")
  bindings += (*TWO_ACTORS, "train.total_env_steps = 10_000")
  with fakes.process(config, tmp_path / "run", *bindings, XLA_FLAGS=flags) as process:
    out, err = process.communicate(timeout=110)
  assert process.returncode == 0, err
  assert fakes.progress(out).updates == 500

"""One writer a folder: who is refused, and that nobody dead is waited for."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import fakes
import pytest

from selftune.core import train as training
from selftune.core.api.errors import RunError, UserError
from selftune.core.machine import lock

ADVICE = "wait."
HOLDER = """
import signal, sys
from pathlib import Path
from selftune.core.machine import lock
with lock.alone(Path(sys.argv[1]), ""):
  print("locked", flush=True)
  signal.pause()
"""


@pytest.fixture
def path(tmp_path, monkeypatch):
  monkeypatch.setattr(lock, "BEAT", 0.02)
  monkeypatch.setattr(lock, "SILENCE", 0.5)
  monkeypatch.setattr(lock, "POLL", 0.01)
  return tmp_path / "train.lock"


def take(path):
  with lock.alone(path, ADVICE) as held:
    return json.loads(path.read_text()), held


def no_flock(monkeypatch):
  """A file system that does not know the kernel's locks."""

  def flock(descriptor, how):
    raise OSError(errno.ENOLCK, "No locks available")

  monkeypatch.setattr(fcntl, "flock", flock)


def left_by(path, **changed):
  """The lock of a process that is gone."""
  found, _ = take(path)
  path.write_text(json.dumps(found | changed))


def test_the_second_is_refused_with_the_name_of_the_first(path):
  with lock.alone(path, ADVICE):
    with pytest.raises(UserError) as caught:
      take(path)
    found = json.loads(path.read_text())
  assert (found["pid"], found["host"]) == (os.getpid(), socket.gethostname())
  assert str(caught.value) == (
    f"{path.parent} is in use by process {os.getpid()} of {socket.gethostname()}, "
    f"since {found['since']}: wait."
  )
  assert not path.exists()
  take(path)


def test_kill_9_leaves_a_lock_that_does_not_block(path):
  process = subprocess.Popen([sys.executable, "-c", HOLDER, path], stdout=subprocess.PIPE)
  assert process.stdout.readline() == b"locked\n"
  with pytest.raises(UserError, match=f"in use by process {process.pid} of "):
    take(path)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  assert path.exists()
  found, _ = take(path)  # at once: SILENCE is not waited for
  assert found["pid"] == os.getpid()


@pytest.mark.parametrize("flock", [True, False])
def test_a_dead_process_of_another_machine_does_not_block(path, monkeypatch, caplog, flock):
  left_by(path, host="other", machine="another")
  if not flock:
    no_flock(monkeypatch)
  began = time.monotonic()
  take(path)
  assert time.monotonic() - began >= lock.SILENCE
  assert "is in use by process" in caplog.text and "of other" in caplog.text


@pytest.mark.parametrize("machine", ["another", "this"])
def test_signs_of_life_block_where_the_kernel_does_not(path, monkeypatch, machine):
  no_flock(monkeypatch)
  with lock.alone(path, ADVICE):
    if machine == "another":
      found = json.loads(path.read_text())
      path.write_text(json.dumps(found | {"machine": "another"}))
    with pytest.raises(UserError, match="is in use by process"):
      take(path)


def test_one_that_ends_while_it_is_looked_for(path, monkeypatch):
  no_flock(monkeypatch)
  left_by(path, host="other")
  threading.Timer(0.1, path.unlink).start()
  began = time.monotonic()
  take(path)
  assert time.monotonic() - began < lock.SILENCE


def test_whoever_lost_the_lock_ends(path, monkeypatch):
  no_flock(monkeypatch)  # as of two that started in the same moment
  with lock.alone(path, ADVICE) as held:
    held.check()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"id": "b", "pid": 77}))

    fakes.wait_for(lambda: lost(held))
  assert json.loads(path.read_text())["id"] == "b"  # it is not removed


def lost(held):
  try:
    held.check()
  except RunError as error:
    assert "is in use by process 77 of " in str(error)
    return True
  return False


def test_waiting_for_the_holder_and_keeping_the_file(path, caplog):
  ended = threading.Event()

  def hold():
    with lock.alone(path, ADVICE, keep=True):
      started.set()
      ended.wait(10)

  started = threading.Event()
  thread = threading.Thread(target=hold)
  thread.start()
  started.wait(10)
  threading.Timer(0.1, ended.set).start()
  with lock.alone(path, ADVICE, wait=10):
    thread.join()
  assert "waiting up to 10 s for its end" in caplog.text and len(caplog.records) == 1


def test_a_disk_without_room_leaves_nothing(path, monkeypatch):
  def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(os, "pwrite", full)
  with pytest.raises(OSError, match="No space left"):
    take(path)
  assert not path.exists()


def test_a_run_is_refused_where_another_trains(config, tmp_path):
  run = tmp_path / "a" / "run"
  run.mkdir(parents=True)
  for resume in (False, True):
    with lock.alone(run / "train.lock", ADVICE):
      with pytest.raises(UserError, match=r"run is in use by process .* or choose another folder"):
        training.train(config, (), run, resume)
    assert list(run.iterdir()) == []
  training.train(config, (), run)
  assert not (run / "train.lock").exists()


def test_a_run_that_does_not_begin_leaves_no_folder(config, tmp_path):
  with pytest.raises(UserError, match="holds no run to resume"):
    training.train(config, (), tmp_path / "a" / "run", resume=True)
  assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_two_at_once(config, tmp_path):
  run = tmp_path / "run"
  forever = ("train.total_env_steps = 10_000_000", "train.checkpoint_seconds = 0.2")
  with fakes.process(config, run, *forever) as first:
    fakes.wait_for(lambda: fakes.checkpoints(run), 60)
    with fakes.process(config, run, *forever, resume=True) as second:
      _, err = second.communicate(timeout=60)
    assert f"UserError: {run} is in use by process {first.pid} of {socket.gethostname()}" in err
    first.send_signal(signal.SIGKILL)
    first.wait(10)
  steps = [row["env_steps"] for row in fakes.rows(run)]
  assert steps == sorted(set(steps))
  assert training.train(config, ["train.total_env_steps = 20"], run, resume=True).updates

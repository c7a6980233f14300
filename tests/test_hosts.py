"""Jobs of several processes: the numbers of one, and how they end and go on when one is lost."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import fakes
import numpy as np
import pytest

from selftune.core.api.errors import RunError, UserError
from selftune.core.commands.cli import main
from selftune.core.machine import hosts, lock, supervise

CONFIG = """
include 'algos/impala.gin'
include 'suites/small.gin'
include 'envs/catch.gin'
mlp.hidden = (16,)
train.runtime = @sebulba()
sebulba.groups = 1
train.num_envs = 8
train.unroll_length = 10
train.total_env_steps = 1_600
train.log_seconds = 0.0
train.checkpoint_seconds = 1.0
train.writers = (@jsonl(),)
"""
FOR_EVER = "--bind=train.total_env_steps = 1_000_000_000"
TIMES = ("wall_time", "steps_per_second", "queue_wait", "env_wait", "act_time")
LOST = f"selftune: {supervise.LOST}\n"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  return str(tmp_path_factory.mktemp("compiled"))


@pytest.fixture
def config(tmp_path):
  path = tmp_path / "job.gin"
  path.write_text(CONFIG)
  return str(path)


@contextlib.contextmanager
def job(processes, cache, config, workdir, *arguments, of_one=(), slurm=False):
  """The processes of a job, killed at the end; the last has the arguments `of_one` besides.

  They are told of each other by arguments, or by the variables that SLURM sets.
  """
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
  command = [sys.executable, "-m", "selftune", "train", config, "--workdir", str(workdir)]
  environment = {
    "XLA_FLAGS": "",
    "JAX_COMPILATION_CACHE_DIR": cache,
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  }
  running = []
  for i in range(processes):
    extra = [*arguments, *(of_one if i == processes - 1 else ())]
    told = {}
    if slurm:
      extra += ["--coordinator", "auto"]
      told = {
        "SLURM_JOB_ID": str(port),  # JAX takes its port from it
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": str(processes),
        "SLURM_PROCID": str(i),
        "SLURM_LOCALID": str(i),
      }
    elif processes > 1:
      extra += ["--coordinator", f"127.0.0.1:{port}"]
      extra += ["--num-processes", str(processes), "--process-id", str(i)]
    running.append(
      subprocess.Popen(
        [*command, *extra],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment | told,
      )
    )
  try:
    yield running
  finally:
    for process in running:
      process.kill()
      process.communicate(timeout=10)


def run(*arguments, **options):
  """Runs a job to its end: return codes, stdouts, stderrs."""
  with job(*arguments, **options) as running:
    ended = [process.communicate(timeout=200) for process in running]
    return [p.returncode for p in running], *map(list, zip(*ended, strict=True))


def trainer(process):
  """The pid of the child that trains."""
  return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())


def started(workdir, running):
  fakes.wait_for(lambda: fakes.checkpoints(workdir) or any(p.poll() is not None for p in running))
  assert [p.poll() for p in running] == [None] * len(running)


NEXT = (  # an outer loss on the next batch, which is kept in parts
  "--bind=agent.metaopt = @metagradient()",
  "--bind=metagradient.outer_batch = 'next'",
  "--bind=metagradient.tune = ('vtrace.gamma',)",
)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(
  "processes, slurm, binds", [(2, True, ()), (4, False, ()), (2, False, NEXT)]
)
def test_processes_are_as_many_devices(cache, config, tmp_path, processes, slurm, binds):
  """Rows and episodes of P processes of one device and actor, and of one process of P of each."""
  codes, out, err = run(processes, cache, config, tmp_path / "several", *binds, slurm=slurm)
  assert codes == [0] * processes, err
  assert "Trained 1,600 env steps" in out[0] and set(out[1:]) == {""}
  devices = ", ".join(map(str, range(processes)))
  one = (f"--bind=sebulba.actors = {processes}", f"--bind=train.learner_devices = ({devices},)")
  codes, _, err = run(1, cache, config, tmp_path / "one", *binds, *one)
  assert codes == [0], err
  several, alone = (fakes.rows(tmp_path / name) for name in ("several", "one"))
  assert len(several) == len(alone) == 20 and any(row["episodes"] for row in alone)
  for row, expected in zip(several, alone, strict=True):
    assert row.keys() == expected.keys()
    for name in row.keys() - set(TIMES):
      np.testing.assert_allclose(row[name], expected[name], rtol=1e-4, atol=1e-6, err_msg=name)
  episodes = [fakes.rows(tmp_path / name, "episodes") for name in ("several", "one")]
  assert episodes[0] == episodes[1]
  seeds = [(tmp_path / name / "restarts.jsonl").read_text() for name in ("several", "one")]
  assert seeds[0] == seeds[1]


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(
  "victim, number, then", [(0, signal.SIGKILL, 1), (1, signal.SIGKILL, 4), (1, signal.SIGSTOP, 2)]
)
def test_a_lost_process_ends_the_others_and_the_job_goes_on(
  cache, config, tmp_path, victim, number, then
):
  workdir = tmp_path / "run"
  with job(2, cache, config, workdir, FOR_EVER) as running:
    started(workdir, running)
    os.kill(trainer(running[victim]), number)
    lost = time.monotonic()
    out, err = running[1 - victim].communicate(timeout=60)
    assert time.monotonic() - lost < 60
    assert (running[1 - victim].returncode, out, err) == (1, "", LOST)
    if number == signal.SIGKILL:
      _, err = running[victim].communicate(timeout=10)
      assert (running[victim].returncode, err.count("\n")) == (1, 1)
      assert "selftune: killed by SIGKILL: start the job again with --resume." in err
  killed_at = fakes.checkpoints(workdir)[-1]
  more = f"--bind=train.total_env_steps = {80 * (killed_at + 5)}"
  codes, _, err = run(then, cache, config, workdir, more, "--resume")
  assert codes == [0] * then, err
  assert f"selftune: resuming at update {killed_at}." in err[0]
  rows = [row["updates"] for row in fakes.rows(workdir)]
  assert rows == list(range(1, killed_at + 6))


@pytest.mark.slow
def test_a_signal_to_one_saves_and_stops_all(cache, config, tmp_path):
  workdir = tmp_path / "run"
  with job(2, cache, config, workdir, FOR_EVER) as running:
    started(workdir, running)
    running[1].send_signal(signal.SIGTERM)
    ended = [process.communicate(timeout=60) for process in running]
  assert [p.returncode for p in running] == [0, 0], ended
  assert ended[0][0].startswith("Stopped after ") and ended[1][0] == ""
  assert "SIGTERM: saving and stopping." in ended[1][1] and ended[0][1] == ""
  assert fakes.checkpoints(workdir)[-1] == fakes.rows(workdir)[-1]["updates"]


@pytest.mark.slow
def test_processes_of_different_configurations(cache, config, tmp_path):
  other = ("--bind=train.seed = 1",)
  codes, _, err = run(2, cache, config, tmp_path / "run", of_one=other)
  assert codes == [2, 2], err
  assert all("do not have the same configuration: start all with" in e for e in err)
  assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_job_is_refused_where_another_trains(cache, config, tmp_path):
  workdir = tmp_path / "run"
  workdir.mkdir()
  with lock.alone(workdir / "train.lock", ""):
    codes, _, errors = run(2, cache, config, workdir)
  assert codes == [2, 2]
  assert f"selftune: {workdir} is in use by process {os.getpid()} of " in errors[0]
  assert errors[1] == "selftune: the first process of the job says why it cannot start.\n"
  assert list(workdir.iterdir()) == []


def test_what_several_processes_tell_each_other(monkeypatch):
  asked = hosts.Asked(stop=False, log=True, save=True)
  episodes = [(1.0, 9), (-1.0, 4)]
  assert hosts.tell(asked, episodes, 4) == (asked, episodes)

  monkeypatch.setattr(hosts, "count", lambda: 2)
  monkeypatch.setattr(hosts, "is_first", lambda: False)
  first = np.array([0, 0, 0, 1, 0.5, 7, 0, 0, 0, 0, 0, 0], np.float32)
  monkeypatch.setattr(hosts, "gather", lambda numbers: np.stack([first, numbers]))
  # The second process's clock does not count; its wish to stop does.
  wanted = hosts.Asked(stop=True, log=True, save=True)
  told, finished = hosts.tell(wanted, episodes, 4)
  assert told == (True, False, False)
  assert finished == [(0.5, 7), *episodes]

  monkeypatch.setattr(hosts, "gather", lambda numbers: np.stack([numbers, [5, 6]]))
  with pytest.raises(UserError, match="do not have the same workdir: start all with the same"):
    hosts.check_same({"configuration": 5, "workdir": 7})


@pytest.mark.parametrize(
  "error",
  [
    ValueError("UNKNOWN: Gloo AllGather failed: Connection reset by peer"),
    RunError(
      "cannot write the checkpoint of update 3 in /run: ValueError: UNKNOWN: Gloo AllGather"
    ),
    RuntimeError("DEADLINE_EXCEEDED: Barrier timed out"),
  ],
)
def test_what_tells_that_a_process_was_lost(monkeypatch, error):
  with pytest.raises(type(error)), hosts.losses_explained():  # there are no others
    raise error
  monkeypatch.setattr(hosts, "count", lambda: 2)
  with pytest.raises(RunError, match=LOST.removeprefix("selftune: ").strip()):
    with hosts.losses_explained():
      raise error
  with pytest.raises(RunError, match="No space left"), hosts.losses_explained():
    raise RunError("cannot write the checkpoint of update 3: No space left on device")


def test_arguments_that_are_no_job(capfd, config, monkeypatch):
  assert main(["train", config, "--process-id", "1"]) == 2
  assert "need --coordinator HOST:PORT" in capfd.readouterr().err
  monkeypatch.setattr("jax._src.xla_bridge.backends_are_initialized", lambda: False)
  for arguments in (("host", 2, 0), ("host:1", 2, 2), ("auto", None, None), ("host:1", None, 0)):
    with pytest.raises(UserError, match=r"--coordinator .* Give HOST:PORT of the first process"):
      hosts.join(*arguments)


# The parent.

SUPERVISED = """
import os, signal, sys, time
from selftune.core.commands.exits import exit_code
from selftune.core.machine.supervise import supervised

def run():
  os.write(2, b"kept\\n")
  os.write(1, b"[Gloo] Rank 0\\n")
  print(os.getpid(), flush=True)
  {body}
  return 0

sys.exit(exit_code(lambda: supervised(run)))
"""
FATAL = 'os.write(2, b"E1124 11:38:18.744325   13069 client.h:80] fatal\\n  @ 0x7f\\n"); os.abort()'
SAID = "from selftune.core.machine.supervise import LOST; print(LOST, file=sys.stderr); return 1"
WAIT = "signal.signal(signal.SIGTERM, lambda *_: os._exit(5)); print(flush=True); "
WAIT += "[time.sleep(0.05) for _ in range(1200)]"  # a signal just before a long sleep would lie


def supervised(body):
  return subprocess.Popen(
    [sys.executable, "-c", SUPERVISED.format(body=body)],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


@pytest.mark.parametrize(
  "body, code, err",
  [
    ("return 3", 3, "kept\n"),
    (FATAL, 1, f"kept\n{LOST}"),
    (SAID, 1, f"kept\n{LOST}"),
    ("os.kill(os.getpid(), 9)", 1, "kept\nselftune: killed by SIGKILL: start the job again with"),
    ("return exit_code(lambda: sys.exit(0))", 1, "kept\nselftune: the run was ended by code that"),
    ("raise ValueError('a bug')", 1, "kept\nTraceback"),
    ("from selftune.core.api.errors import UserError; raise UserError('no')", 1, "kept\nTraceback"),
  ],
)
def test_how_a_process_ended_is_told_by_its_parent(body, code, err):
  process = supervised(body)
  out, said = process.communicate(timeout=20)
  assert process.returncode == code and said.startswith(err)
  assert (
    out.count("\n") == 1 and "@" not in said and (code == 3 or said.count(LOST) == (LOST in err))
  )


def test_a_signal_that_comes_at_once_is_passed_on():
  process = supervised(
    "signal.signal(15, lambda *_: os._exit(5)); os.kill(os.getppid(), 15); " + WAIT
  )
  process.communicate(timeout=20)
  assert process.returncode == 5


def test_signals_are_passed_on_and_the_child_does_not_outlive_its_parent():
  process = supervised(WAIT)
  process.stdout.readline(), process.stdout.readline()
  process.send_signal(signal.SIGTERM)
  assert process.wait(10) == 5
  process = supervised(WAIT)
  child = int(process.stdout.readline())
  process.kill()
  process.communicate(timeout=10)
  fakes.wait_for(lambda: not alive(child), 10)


def alive(pid):
  try:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
  except FileNotFoundError:
    return False

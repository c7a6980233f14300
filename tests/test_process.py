"""The process of a command: it ends when it is told to, and what it prints cannot fail it."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import fakes
import pytest

from selftune.core.machine import process

SELFTUNE = [sys.executable, "-m", "selftune"]
FAST = """
include 'algos/impala.gin'
include 'suites/small.gin'
include 'envs/catch.gin'
mlp.hidden = (8,)
train.total_env_steps = 1_000_000_000
"""
SAVED = "\n{}: saving and stopping.\n"


def started(command, **options):
  """The process, once it heeds signals."""
  pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
  running = subprocess.Popen(command, **pipes, **options)
  fakes.wait_for(lambda: catches(running.pid, signal.SIGHUP) or running.poll() is not None)
  return running


def catches(pid, number):
  status = Path(f"/proc/{pid}/status").read_text()
  (caught,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
  return bool(int(caught, 16) >> (number - 1) & 1)


@pytest.mark.slow
@pytest.mark.parametrize("tenths", [*range(12), *range(12, 60, 6)])
def test_one_ctrl_c_ends_training_whenever_it_comes(tmp_path, tenths):
  (tmp_path / "fast.gin").write_text(FAST)
  running = started([*SELFTUNE, "train", "fast.gin", "--workdir", "run"], cwd=tmp_path)
  time.sleep(tenths / 10)
  running.send_signal(signal.SIGINT)
  _, err = running.communicate(timeout=fakes.SOON)
  if running.returncode:
    assert (running.returncode, err) == (130, "selftune: interrupted.\n")
    # It ends wherever it is, perhaps with the workdir locked: a lock that holds nobody up.
    left = {path.name for path in (tmp_path / "run").glob("*")}
    assert left <= {"train.lock"}
  else:  # it had begun
    assert SAVED.format("SIGINT") in err and "Traceback" not in err


@pytest.mark.parametrize(
  "number, code, said", [(2, 130, "interrupted"), (15, 143, "ended by SIGTERM"), (1, 129, "SIGHUP")]
)
def test_a_signal_before_training_ends_the_process(tmp_path, number, code, said):
  command = [*SELFTUNE, "config", "experiments/catch_stacx"]
  running = started(command)
  running.send_signal(number)
  out, err = running.communicate(timeout=fakes.SOON)
  assert (running.returncode, out, err.count("\n")) == (code, "", 1) and said in err


IN_NATIVE_CODE = """
import hashlib, signal
from selftune.core.machine import process
process.begin()
{setup}
print(flush=True)
hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # minutes; Python calls no handler before it is over
"""


def in_native_code(setup=""):
  running = started([sys.executable, "-c", IN_NATIVE_CODE.format(setup=setup)])
  assert running.stdout.readline() == "\n"
  time.sleep(0.1)
  return running


def test_native_code_does_not_keep_a_signal_waiting():
  running = in_native_code()
  running.send_signal(signal.SIGTERM)
  assert running.communicate(timeout=fakes.SOON)[1] == "selftune: ended by SIGTERM.\n"
  assert running.returncode == 143


def test_native_code_keeps_neither_the_word_nor_a_second_ctrl_c_waiting():
  running = in_native_code("signal.signal(signal.SIGINT, process.Stop())")
  running.send_signal(signal.SIGINT)
  assert running.stderr.readline() + running.stderr.readline() == SAVED.format("SIGINT")
  running.send_signal(signal.SIGINT)
  assert running.communicate(timeout=fakes.SOON)[1] == "selftune: interrupted.\n"
  assert running.returncode == 130


def test_a_full_pipe_that_nobody_reads_does_not_keep_a_signal_waiting():
  running = in_native_code(
    "import os; os.set_blocking(2, False); os.write(2, bytes(10**6)); os.set_blocking(2, True)"
  )
  running.send_signal(signal.SIGINT)
  assert running.wait(timeout=fakes.SOON) == 130
  running.communicate()


def test_a_forked_child_does_not_end_its_parent():
  running = in_native_code(
    "import os, time, warnings\n"
    "warnings.simplefilter('ignore')  # Python 3.12 warns of a fork beside threads\n"
    "child = os.fork()\n"
    "if not child: time.sleep(60), os._exit(1)\n"
    "os.kill(child, signal.SIGTERM)\n"
    "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 143"
  )
  assert running.stderr.readline() == "selftune: ended by SIGTERM.\n"
  assert running.poll() is None
  running.kill()
  running.communicate()


def test_what_nohup_has_ignored_stays_ignored():
  before = {number: signal.getsignal(number) for number in process.SIGNALS}
  try:
    for number in process.SIGNALS:
      signal.signal(number, signal.SIG_IGN)
    assert process.heeded() == [signal.SIGINT]
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    assert process.heeded() == [signal.SIGINT, signal.SIGHUP]
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


def shell(text):
  command = f'selftune() {{ {" ".join(SELFTUNE)} "$@"; }}; {text}'
  return subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=240)


LOST = "selftune: cannot write to the standard output: {}.\n"


@pytest.mark.parametrize(
  "command, code, out, err",
  [
    ("selftune --help | true; echo ${PIPESTATUS[0]} >&2", 0, "", "0\n"),
    ("selftune --help > /dev/full", 1, "", LOST.format("No space left on device")),
    ("selftune --help >&-", 1, "", LOST.format("Bad file descriptor")),
    ("selftune nonsense 2>&-", 2, "", ""),
    ("selftune nonsense 2> /dev/full", 2, "", ""),
    ("selftune --help <&- >&- 2>&-", 1, "", ""),
  ],
)
def test_output_that_nobody_takes(command, code, out, err):
  done = shell(command)
  assert (done.returncode, done.stdout, done.stderr) == (code, out, err)


def test_closed_streams_are_not_taken_for_files(tmp_path):
  """Else what is printed would land in the first files that a run opens."""
  (tmp_path / "code.py").write_text(
    "import os, sys\n"
    "from selftune.core.machine import process\n"
    "process.begin()\n"
    "print(os.open('file', os.O_CREAT | os.O_WRONLY) > 2)\n"
    "sys.exit(7 if process.output_failure() else 1)"
  )
  done = shell(f"cd {tmp_path}; {sys.executable} code.py <&- >&- 2>&-")
  assert done.returncode == 7 and (tmp_path / "file").read_text() == ""


@pytest.mark.slow
@pytest.mark.parametrize("streams", ["2>&1 | true", "2>&-", "2> /dev/full"])
def test_training_goes_on_when_nobody_listens(tmp_path, streams):
  (tmp_path / "fast.gin").write_text(FAST.replace("1_000_000_000", "640"))
  more = "train.writers = (@jsonl(), @terminal())"
  done = shell(
    f"cd {tmp_path}; selftune train fast.gin --workdir run --bind '{more}' {streams}; "
    "exit ${PIPESTATUS[0]}"
  )
  assert done.returncode == 0 and (tmp_path / "run" / "curves.png").exists()

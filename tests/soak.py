"""Faults at random, one after another, into two runs that must survive them all.

  python tests/soak.py [--faults 200] [--seed 0]

One run on Catch learns in lockstep, one from actor threads. Either is started, a fault is injected
at a random time, and the run must end or go on as is specified, within 60 seconds; the next fault
meets it resumed. In the end both are trained to an end. A wrong exit, a hang, a process left behind
or a checkpoint lost fails the script, after its table. Ctrl-C ends it early, with the table of what
was done. Full disks need root, for a disk of their own.
"""

import argparse
import dataclasses
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

LIMIT = 60.0  # seconds in which a run obeys
START = 240.0  # in which it has started, on a busy machine
STEPS = 40  # env steps of an update
RUNTIMES = ("lockstep", "sebulba")
CONFIG = """
import soak_faults
include 'algos/impala.gin'
include 'suites/small.gin'
mlp.hidden = (16,)
train.env = @faulty()
train.num_envs = 4
train.unroll_length = 10
train.total_env_steps = 1_000_000_000
train.log_seconds = 0.05
train.checkpoint_seconds = 0.1
"""
FAULTY = """
import dataclasses, os
from selftune.core.api.registry import register
from selftune.plugins.envs.envpool import EnvPool

@register("env", "faulty")
@dataclasses.dataclass(frozen=True)
class Faulty:
  '''Catch, whose actor fails, or whose rewards are not numbers, once a file says so.'''

  def make(self, seeds):
    return FaultyPool(EnvPool().make(seeds))

class FaultyPool:
  def __init__(self, pool):
    self._pool, self.spec, self.num_envs = pool, pool.spec, pool.num_envs
    self.reset, self.send, self.close = pool.reset, pool.send, pool.close

  def recv(self):
    timestep = self._pool.recv()
    if os.path.exists(os.environ["SOAK_FAULT"] + ".raise"):
      raise RuntimeError("the environment failed")
    if os.path.exists(os.environ["SOAK_FAULT"] + ".nan"):
      timestep = timestep._replace(reward=timestep.reward * float("nan"))
    return timestep
"""


@dataclasses.dataclass(frozen=True)
class Fault:
  """What is done to a run, and how it must then end."""

  inject: Callable[["Soak"], None]
  code: int | None  # None: it goes on, and is then stopped by SIGTERM
  says: str  # in the last line of stderr
  share: int = 4  # of the faults
  bindings: tuple[str, ...] = ()


FAULTS = {
  "actor exception": Fault(lambda s: s.flag("raise"), 1, "RuntimeError: the environment failed"),
  "learner NaN": Fault(lambda s: s.flag("nan"), 1, "was not finite in update"),
  "SIGTERM": Fault(lambda s: s.send(signal.SIGTERM), 0, ""),
  "kill -9": Fault(lambda s: s.send(signal.SIGKILL), -signal.SIGKILL, ""),
  "full disk": Fault(lambda s: s.fill(), 1, "No space left on device"),
  "W&B unreachable": Fault(
    lambda s: None,
    None,
    "",
    1,  # it takes W&B half a minute to give up
    ("train.writers = (@jsonl(), @terminal(), @wandb())", "wandb.mode = 'online'"),
  ),
}


class Failed(Exception):
  """The run did not do as specified."""


class Soak:
  """The runs, and what is done to the one that is going on."""

  def __init__(self, folder: Path, seed: int):
    self.random = random.Random(seed)
    self.disk = folder / "disk"
    self.disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(self.disk)]
    self.mounted = subprocess.run(mount, capture_output=True).returncode == 0
    self.workdir, self._flags, self._plugins = self.disk, folder / "flag", folder / "lib"
    self._plugins.mkdir()
    (self._plugins / "soak_faults.py").write_text(FAULTY)
    self.config = folder / "soak.gin"
    self.config.write_text(CONFIG)
    self._environment = os.environ | {
      "SOAK_FAULT": str(self._flags),
      "PYTHONPATH": str(self._plugins),
      "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
      "WANDB_API_KEY": "0" * 40,
      "WANDB_BASE_URL": "http://127.0.0.1:9",  # nobody listens
      "WANDB_MODE": "online",
    }
    self._process: subprocess.Popen[str] | None = None

  def close(self) -> None:
    if self.mounted:
      subprocess.run(["umount", str(self.disk)], check=True)

  # The faults.

  def flag(self, name: str) -> None:
    self._flags.with_suffix(f".{name}").touch()

  def send(self, number: int) -> None:
    assert self._process is not None
    self._process.send_signal(number)

  def fill(self) -> None:
    with (self.disk / "ballast").open("wb", buffering=0) as file:
      try:
        while True:
          file.write(bytes(4096))
      except OSError:
        pass

  def mend(self) -> None:
    for path in (*self._flags.parent.glob("flag.*"), self.disk / "ballast"):
      path.unlink(missing_ok=True)

  # The run.

  def checkpoints(self) -> list[int]:
    return sorted(int(p.name) for p in self.workdir.glob("checkpoints/*") if p.name.isdecimal())

  def start(self, runtime: str, *bindings: str) -> None:
    self.workdir = self.disk / runtime
    bindings = (f"train.runtime = @{runtime}()", *bindings)
    command = [sys.executable, "-m", "selftune", "train", str(self.config)]
    command += [f"--bind={b}" for b in bindings] + ["--workdir", str(self.workdir)]
    if (self.workdir / "config.gin").exists():
      command.append("--resume")
    self._process = subprocess.Popen(
      command,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      env=self._environment,
      start_new_session=True,
    )

  def kill(self) -> None:
    """Kills all processes of the run."""
    assert self._process is not None
    os.killpg(self._process.pid, signal.SIGKILL)
    self._process.wait()

  def wait_for(self, condition: Callable[[], bool], what: str, seconds: float = LIMIT) -> None:
    assert self._process is not None
    deadline = time.monotonic() + seconds
    while not condition() and self._process.poll() is None:
      if time.monotonic() > deadline:
        self.kill()
        raise Failed(f"{what}: not within {seconds:.0f} s")
      time.sleep(0.02)

  def end(self, seconds: float = LIMIT) -> tuple[int, str]:
    """Waits for the end of the run; its code and its stderr."""
    assert self._process is not None
    try:
      _, err = self._process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
      self.kill()
      raise Failed(f"hung over {seconds:.0f} s") from None
    deadline = time.monotonic() + 5
    while left := self._session(self._process.pid):
      if time.monotonic() > deadline:
        self.kill()
        raise Failed(f"left processes behind: {left}")
      time.sleep(0.05)
    return self._process.returncode, err

  @staticmethod
  def _session(session: int) -> list[str]:
    """The processes of a session that are still there."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
      try:
        name, _, rest = stat.read_text().rpartition(")")
      except OSError:
        continue
      state, _, _, its_session = rest.split()[:4]
      if int(its_session) == session and state != "Z":
        found.append(name.partition("(")[2])
    return found

  def check_whole(self, step: int) -> None:
    """A checkpoint is there, and its document's sum is right."""
    path = self.workdir / "checkpoints" / str(step) / "document" / "metadata"
    document = json.loads(path.read_text())
    crc32 = document.pop("crc32")
    if zlib.crc32(json.dumps(document, sort_keys=True).encode()) != crc32:
      raise Failed(f"checkpoint {step} is damaged")


def meet(soak: Soak, name: str, runtime: str) -> float:
  """Starts a run, injects a fault and checks what follows; seconds until the run obeyed.

  Raises:
    Failed: it did not.
  """
  fault = FAULTS[name]
  soak.start(runtime, *fault.bindings)
  before, rows = soak.checkpoints(), soak.workdir / "metrics.jsonl"
  size = lambda: rows.stat().st_size if rows.exists() else 0
  seen = size()
  if name == "kill -9" and soak.random.random() < 0.3:
    time.sleep(soak.random.uniform(0.0, 5.0))  # while it starts
  else:
    soak.wait_for(lambda: size() != seen, "a first row", START)
    time.sleep(soak.random.uniform(0.0, 1.0))
  begun, seen = time.monotonic(), size()
  fault.inject(soak)
  if fault.code is None:
    soak.wait_for(lambda: size() > seen, "a row after the fault")
    soak.send(signal.SIGTERM)
  code, err = soak.end()
  seconds = time.monotonic() - begun
  soak.mend()
  last = err.strip().splitlines()[-1] if err.strip() else ""
  if code != (fault.code or 0) or fault.says not in last:
    raise Failed(f"exit code {code}, {last}")
  after = soak.checkpoints()
  if before and (not after or after[-1] < before[-1]):
    raise Failed(f"checkpoints {before} became {after}")
  for step in after:
    soak.check_whole(step)
  return seconds


def finish(soak: Soak, runtime: str) -> str:
  """Trains a run to its end, a little after its last checkpoint; returns what is wrong."""
  soak.workdir = soak.disk / runtime
  updates = max(soak.checkpoints(), default=0) + 5
  soak.start(runtime, f"train.total_env_steps = {STEPS * updates}")
  try:
    code, err = soak.end(START)
  except Failed as failure:
    return f"{runtime}: {failure}"
  rows = [json.loads(line) for line in (soak.workdir / "metrics.jsonl").open()]
  steps = [row["env_steps"] for row in rows]
  if code or soak.checkpoints()[-1] != updates or steps != sorted(set(steps)):
    return f"{runtime}: exit code {code}, checkpoints {soak.checkpoints()}, {err[-300:]}"
  return ""


def soaked(faults: int, seed: int) -> list[str]:
  """Injects so many faults, prints the table, and returns what went wrong."""
  wrong: list[str] = []
  met = dict.fromkeys(FAULTS, 0)
  seconds: dict[str, list[float]] = {name: [] for name in FAULTS}
  with tempfile.TemporaryDirectory() as folder:
    soak = Soak(Path(folder), seed)
    try:
      names = [name for name in FAULTS if soak.mounted or name != "full disk"]
      shares = [FAULTS[name].share for name in names]
      order = names + soak.random.choices(names, shares, k=max(0, faults - len(names)))
      soak.random.shuffle(order)
      for number, name in enumerate(order[:faults]):
        runtime, result = soak.random.choice(RUNTIMES), "as specified"
        try:
          seconds[name].append(meet(soak, name, runtime))
        except Failed as failure:
          soak.mend()
          result = str(failure)
          wrong.append(f"fault {number}, {name} in {runtime}: {result}")
        except KeyboardInterrupt:
          soak.kill()
          soak.mend()
          break
        met[name] += 1
        print(f"{number:>4} {name:<16} {runtime:<9} {result}", flush=True)
      wrong += filter(None, [finish(soak, r) for r in RUNTIMES if (soak.disk / r).exists()])
    finally:
      soak.close()
  print(f"{'fault':<18}{'as specified':>13}{'median s':>10}{'worst s':>10}")
  for name, times in seconds.items():
    of = f"{len(times)}/{met[name]}"
    median, worst = (f"{f(times):.1f}" if times else "" for f in (statistics.median, max))
    print(f"{name:<18}{of:>13}{median:>10}{worst:>10}")
  return wrong


def main() -> int:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--faults", type=int, default=200)
  parser.add_argument("--seed", type=int, default=0)
  arguments = parser.parse_args()
  wrong = soaked(arguments.faults, arguments.seed)
  print("\n".join(wrong) if wrong else "Every fault ended or went on as specified.")
  return 1 if wrong else 0


if __name__ == "__main__":
  sys.exit(main())

"""W&B online, against a stand-in for its server: real runs, a network that goes and comes back."""

import json
import os
import re
import shlex
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import fakes
import pytest
import yaml
from test_logging import wandb_records
from wandb_server import API_KEY, ENTITY, SWEEP, Server

from selftune.core.api import jsonl
from selftune.core.api.contracts import RunInfo
from selftune.core.commands.sweep import experiment_of
from selftune.core.record.logging import Logger
from selftune.core.sweeps import file as sweep_file
from selftune.plugins.writers import wandb

CONFIG = """
import hasty
include 'algos/stac.gin'
include 'suites/small.gin'
include 'envs/catch.gin'
mlp.hidden = (16,)
train.num_envs = 4
train.unroll_length = 10
train.log_seconds = 0.1
train.writers = (@jsonl(), @wandb())
"""
HASTY = """
from selftune.plugins.writers import wandb
wandb.TIMEOUT = 5.0
"""
ENDLESS = 10**9  # env steps


pytestmark = pytest.mark.usefixtures("compiled_once")


@pytest.fixture
def server(tmp_path, monkeypatch):
  """A server; whoever runs here has logged in to it."""
  monkeypatch.chdir(tmp_path)  # `wandb sync` leaves a folder behind
  monkeypatch.delenv("WANDB_MODE", raising=False)
  monkeypatch.setenv("WANDB_API_KEY", API_KEY)
  monkeypatch.setenv("WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL", "0.5")
  with Server() as server:
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    yield server
  assert not server.failures


@pytest.fixture
def train(tmp_path, monkeypatch):
  """Starts `selftune train`, of so many env steps; what still runs at the end is killed."""
  file, started = tmp_path / "tiny.gin", []
  file.write_text(CONFIG)
  (tmp_path / "hasty.py").write_text(HASTY)
  monkeypatch.setenv("PYTHONPATH", str(tmp_path))

  def start(env_steps, *options):
    steps = f"--bind=train.total_env_steps = {env_steps}"
    command = [sys.executable, "-m", "selftune", "train", str(file), steps, *options]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started.append(subprocess.Popen([*command, f"--workdir={tmp_path / 'run'}"], **streams))
    return started[-1]

  yield start
  for process in started:
    process.kill()
    process.communicate(timeout=10)


def ended(process, seconds=120):
  """What a run said on stderr, after it has ended well."""
  _, told = process.communicate(timeout=seconds)
  assert process.returncode == 0, told
  return told


def command_line(*words):
  """Runs W&B's own program; what it said on stderr."""
  command = [sys.executable, "-m", "wandb", *map(str, words)]
  done = subprocess.run(command, capture_output=True, text=True, timeout=120)
  assert done.returncode == 0, done.stderr
  return done.stderr


def scalars(rows):
  """The rows that are no media, as metrics.jsonl would have them."""
  own = [{k: v for k, v in row.items() if not k.startswith("_")} for row in rows]
  numbers = [row for row in own if not any(isinstance(v, dict) for v in row.values())]
  return [json.loads(jsonl.encode(row)) for row in numbers]


@pytest.mark.long
@pytest.mark.slow
def test_online_and_resumed(server, train, tmp_path):
  workdir = tmp_path / "run"
  ended(train(1000))
  ((run_id, run),) = server.runs.items()
  written = fakes.rows(workdir)
  assert scalars(run.rows) == written and len(written) > 2
  assert {name.split("/")[0] for name in written[-1]} >= {"tuned", "eta", "metagrad", "loss"}
  metrics = run.config["_wandb"]["m"]
  (each,) = [metric for metric in metrics if metric.get("2") == "*"]
  assert metrics[each["5"] - 1]["1"] == "env_steps"  # its step metric, counted from 1
  text = (workdir / "operative_config.gin").read_text()
  operative = re.findall(r"^([\w.]+) =", text, re.MULTILINE)
  assert run.config.keys() - {"_wandb"} == set(operative) - {"gamma"}  # a macro
  told = {"train.total_env_steps": 1000, "rmsprop.learning_rate": 6e-4, "mlp.hidden": "(16,)"}
  assert run.config.items() >= told.items()
  assert (run.fields["displayName"], run.fields["project"]) == ("run", "selftune")
  assert scalars([run.summary | {"curves": 0}])[0].items() >= written[-1].items()
  assert run.exit_code == 0
  (name,) = [name for name in run.files if name.startswith("media/")]
  assert run.files[name] == (workdir / "curves.png").read_bytes()
  assert run.rows[-1]["curves"]["path"] == name and run.rows[-1]["env_steps"] == 1000

  ended(train(2000, "--resume"))
  assert server.runs.keys() == {run_id}
  written = fakes.rows(workdir)
  assert scalars(run.rows) == written and written[-1]["env_steps"] == 2000
  assert run.summary["env_steps"] == 2000


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("lose", [Server.refuse, Server.hang])
def test_network_is_lost_and_comes_back(server, train, tmp_path, lose):
  workdir = tmp_path / "run"
  process = train(ENDLESS)
  fakes.wait_for(lambda: any(len(run.rows) >= 5 for run in server.runs.values()), 120)
  (run,) = server.runs.values()
  lose(server)
  before = len(fakes.rows(workdir))
  fakes.wait_for(lambda: len(fakes.rows(workdir)) >= before + 20)
  process.send_signal(signal.SIGTERM)
  begun = time.monotonic()
  told = ended(process)
  assert time.monotonic() - begun < 40

  written = fakes.rows(workdir)
  speeds = [row["steps_per_second"] for row in written[1:]]  # the first one is compilation
  assert statistics.median(speeds[before:]) > 0.25 * statistics.median(speeds[: before - 1])
  (path,) = workdir.glob("wandb/run-*/*.wandb")
  assert sum(r.HasField("history") for r in wandb_records(path)) == len(written)
  assert len(run.rows) < len(written)
  (said,) = re.findall(r"W&B did not take .* by: wandb sync (.*)", told)
  server.answer()
  command_line("sync", *shlex.split(said))
  assert scalars(run.rows) == written


NEVER_ANSWERED = """
import sys, time
from pathlib import Path
from selftune.core.api.contracts import RunInfo
from selftune.core.record.logging import Logger
from selftune.plugins.writers import wandb as writer
from selftune.plugins.writers.jsonl import Jsonl
writer.TIMEOUT = 2.0
begun = time.monotonic()
run = RunInfo(sys.argv[1], {}, 100, 0, {})
with Logger({"wandb": writer.WandB(), "jsonl": Jsonl()}, run) as log:
  for step in range(50):
    log.log({"x": 1.0}, step)
  log.log_media("video", Path(sys.argv[1], "episode.mp4"))
  print(time.monotonic() - begun)
"""


@pytest.mark.slow
def test_server_that_does_not_answer_from_the_beginning(server, tmp_path, monkeypatch):
  monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")  # else W&B's process takes twice as long
  server.hang()
  (tmp_path / "episode.mp4").write_bytes(b"frames")
  command = [sys.executable, "-c", NEVER_ANSWERED, str(tmp_path)]
  done = subprocess.run(command, capture_output=True, text=True, timeout=90)
  assert done.returncode == 0, done.stderr
  assert float(done.stdout.splitlines()[0]) < 3.0 and not server.runs
  (said,) = re.findall(r"logged offline; upload it by: wandb sync (.*)", done.stderr)
  server.answer()
  option, run_id, folder = shlex.split(said)
  command_line("sync", option, run_id, *tmp_path.glob(str(Path(folder).relative_to(tmp_path))))
  ((name, run),) = server.runs.items()
  assert name == run_id
  assert scalars(run.rows) == fakes.rows(tmp_path) and len(run.rows) == 51
  assert run.files[run.rows[-1]["video"]["path"]] == b"frames"


@pytest.mark.slow
def test_offline_run_that_was_resumed_becomes_one(server, tmp_path):
  ids = {}
  for resumed_at in (0, 3):
    run = RunInfo(str(tmp_path), {}, 6, resumed_at, ids)
    with Logger({"wandb": wandb.WandB(mode="offline")}, run) as log:
      for step in range(1, 4):
        log.log({"x": step}, resumed_at + step)
    time.sleep(1.0)  # W&B names a folder by id and second
  folders = sorted(tmp_path.glob("wandb/offline-run-*"))
  assert len(folders) == 2
  command_line("sync", *folders)
  command_line("sync", "--include-synced", folders[0])  # does no harm
  ((name, run),) = server.runs.items()
  assert name == ids["wandb"]
  assert [(row["_step"], row["env_steps"]) for row in run.rows] == [(k, k + 1) for k in range(6)]


@pytest.mark.long
@pytest.mark.slow
def test_agent_trains_a_point_of_a_packaged_sweep(server, tmp_path, monkeypatch):
  monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
  sweep = dict(sweep_file.read("sweeps/catch_stac_discount", experiment_of).config)
  sweep["command"] = [*sweep["command"], "--bind=train.total_env_steps = 2000"]
  Path("sweep.yaml").write_text(yaml.safe_dump(sweep))
  (said,) = re.findall(r"wandb agent (\S+)", command_line("sweep", "sweep.yaml"))
  assert said == f"{ENTITY}/selftune/{SWEEP}"
  command_line("agent", "--count=1", said)
  ((name, run),) = server.runs.items()
  workdir = tmp_path / "runs" / f"catch_stacx_{name}"
  assert scalars(run.rows) == fakes.rows(workdir) != []
  assert (run.fields["sweep"], run.fields["groupName"]) == (SWEEP, "catch_stac_discount")
  told = {"gamma": 0.8, "policy_gradient.cost": 1.0, "train.total_env_steps": 2000}
  assert run.config.items() >= told.items()
  assert run.exit_code == 0

"""The calculation of docs/scaling.md: by hand, and that the page shows what it prints."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from dm_env import specs

from selftune.core import config
from selftune.core.agent.functions import Functions
from selftune.core.api.types import EnvSpec

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def scaling():
  spec = importlib.util.spec_from_file_location("scaling", ROOT / "benchmarks" / "scaling.py")
  assert spec and spec.loader
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def row(rows, *first):
  """The row that begins so."""
  (found,) = (row for row in rows if tuple(row.values())[: len(first)] == first)
  return found


def test_a_job_by_hand(scaling):
  given = "--impala 12800 --acting 1 --stac 3 --parameters 2000000 6000000 --nvlink 1e9"
  rows = scaling.jobs(scaling.parse([*given.split(), "--network", "1e8"]))
  one, all_ = row(rows, "IMPALA", "1 x 1"), row(rows, "IMPALA", "8 x 8")
  assert one["env steps/s"] == "6,400" and one["an update, ms"] == "100"
  assert all_["a GPU sends, MB"] == all_["a host sends, MB"] == "14.0"  # 2 x 7/8 x 8 MB
  assert all_["summing, ms"] == "154.0"  # 14 ms inside, 140 between
  assert all_["env steps/s"] == "161,260"  # 2,048 x 20 env steps in 254 ms
  assert row(rows, "STAC", "1 x 8")["a GPU sends, MB"] == "28.0"  # two gradients
  assert row(rows, "STAC", "1 x 1")["env steps/s"] == "3,200"


def test_a_run_and_a_host_by_hand(scaling):
  args = scaling.parse("--impala 20000 --acting 1 --envpool 1250 --bus 1e10".split())
  cost, host = row(scaling.run(args), "IMPALA"), row(scaling.limits(args), "IMPALA")
  assert cost["GPU-hours of a run"] == "1.4"  # 50 M / 10,000 / 3,600
  assert cost["hours on 64 GPUs"] == "6.9"  # five turns
  assert cost["paper: on a GPU"] == "1.8"
  assert host["cores that step, for a GPU"] == "8.0" and host["for 8 GPUs"] == "64"
  assert host["to the GPU, MB/s"] == "579"  # 10,000 x 28,224 x 2.05
  assert host["the GPU is then busy, %"] == "50"


@pytest.mark.parametrize("agent, heads", [("atari_stac", 0), ("atari_stacx", 1)])
def test_the_parameters_are_counted(scaling, agent, heads):
  spec = EnvSpec(specs.Array((84, 84, 4), np.uint8), specs.DiscreteArray(18))
  network = Functions(config.load(f"experiments/{agent}").root.agent, spec, 1).network
  shapes = jax.tree.leaves(jax.eval_shape(network.init, jax.random.key(0)))
  assert sum(x.size for x in shapes) == scaling.parse([]).parameters[heads]


def test_the_page_shows_what_is_printed(scaling):
  page = (ROOT / "docs" / "scaling.md").read_text()
  for table in scaling.TABLES.values():
    assert scaling.markdown(table(scaling.parse([]))) in page


def started(file, tmp_path, *arguments, **variables):
  """What a file for SLURM starts, a list of words a line, with echoes for what it calls."""
  for name in ("selftune", "srun"):
    (tmp_path / name).write_text(f'#!/bin/sh\nprintf "{name} %s\\n" "$*"\n')
    (tmp_path / name).chmod(0o755)
  path = os.pathsep.join([str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]])
  command = ["bash", str(ROOT / "docs" / "examples" / "cluster" / file), *arguments]
  done = subprocess.run(
    command, env=os.environ | {"PATH": path} | variables, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  return done.stdout.strip()


def test_a_job_of_slurm(tmp_path):
  found = started("train.sbatch", tmp_path, "x.gin", str(tmp_path / "run"), SLURM_NTASKS="16")
  assert found.startswith("srun --kill-on-bad-exit=1 selftune train x.gin --workdir ")
  assert found.endswith("--coordinator auto --bind train.num_envs = 512")
  (tmp_path / "run" / "checkpoints").mkdir(parents=True)
  again = started(
    "train.sbatch", tmp_path, "x.gin", str(tmp_path / "run"), "--bind=a.b = 1", SLURM_NTASKS="2"
  )
  assert again.endswith("--coordinator auto --resume --bind train.num_envs = 64 --bind=a.b = 1")


def test_an_array_of_slurm_has_every_game_and_seed(tmp_path):
  for task, game, seed in ((0, "alien", 0), (6, "amidar", 1), (284, "zaxxon", 4)):
    found = started("games.sbatch", tmp_path, "atari_stac", "out", SLURM_ARRAY_TASK_ID=str(task))
    assert found == (
      f"selftune train experiments/atari_stac --workdir out/{game}_{seed} "
      f"--bind atari.game = '{game}' --bind train.seed = {seed}"
    )


def test_files_for_slurm_can_be_read():
  for file in (ROOT / "docs" / "examples" / "cluster").glob("*.sbatch"):
    subprocess.run(["bash", "-n", str(file)], check=True)

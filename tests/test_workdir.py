"""The folder of a run: what a start leaves in it, and what a later one finds there."""

import errno
import json
import os
import shutil
import sys
from pathlib import Path

import fakes
import pytest

from selftune.core import config as config_module
from selftune.core import train as training
from selftune.core.api.errors import RunError, UserError
from selftune.core.record import aside
from selftune.core.record.workdir import Workdir

pytestmark = pytest.mark.usefixtures("compiled_once")


@pytest.fixture
def forgotten(monkeypatch):
  """Forgets the module of this name, as a process that starts anew does."""
  monkeypatch.setattr(sys, "path", list(sys.path))
  before = list(sys.path)

  def forget(name):
    for module in [it for it in sys.modules if it.partition(".")[0] == name]:
      del sys.modules[module]
    sys.path[:] = before

  return forget


def test_a_module_is_found_again_whether_or_not_it_has_a_file(config, tmp_path, forgotten):
  project = tmp_path / "project"
  (project / "scratch_space").mkdir(parents=True)  # without an __init__.py
  (project / "scratch_space" / "part.py").write_text("ran = True")
  gin = project / "config.gin"
  gin.write_text(f"import sys\nimport scratch_space.part\n{(tmp_path / 'config.gin').read_text()}")
  workdir = Workdir(tmp_path / "run")
  workdir.path.mkdir()
  workdir.create(config_module.load(str(gin)), [], 0)
  (start,) = (workdir.path / "restarts.jsonl").read_text().splitlines()
  assert json.loads(start)["imports"] == [str(project)]
  forgotten("scratch_space")
  workdir.load()
  assert sys.modules["scratch_space.part"].ran
  forgotten("scratch_space")


def test_a_module_of_the_current_folder_is_not_taken_for_that_of_a_run(
  config, tmp_path, monkeypatch, forgotten
):
  for name in ("project", "current"):
    (tmp_path / name).mkdir()
    (tmp_path / name / "scratch_helper.py").touch()
  gin = tmp_path / "project" / "config.gin"
  gin.write_text(f"import scratch_helper\n{(tmp_path / 'config.gin').read_text()}")
  monkeypatch.chdir(tmp_path / "current")
  loaded = config_module.load(str(gin))
  workdir = Workdir(tmp_path / "run")
  workdir.path.mkdir()
  workdir.create(loaded, [], 0)
  workdir.check(loaded, resume=True)
  forgotten("scratch_helper")
  workdir.load()  # as another process does
  assert Path(sys.modules["scratch_helper"].__file__).parent == tmp_path / "project"
  forgotten("scratch_helper")


def test_resuming_without_a_checkpoint_keeps_the_logs(config, tmp_path, capfd):
  run, names = tmp_path / "run", ("metrics", "episodes")
  training.train(config, (), run)
  logs = {name: (run / f"{name}.jsonl").read_bytes() for name in names}
  assert all(logs.values())
  shutil.rmtree(run / "checkpoints")
  assert training.train(config, (), run, resume=True).updates == 6
  kept = run / "before-1"
  assert f"selftune: the logs that were in {run} are kept in {kept}.\n" in capfd.readouterr().err
  assert sorted(path.stem for path in kept.iterdir()) == sorted(names)
  assert {name: (kept / f"{name}.jsonl").read_bytes() for name in names} == logs
  assert [row["updates"] for row in fakes.rows(run)] == [1, 2, 3, 4, 5, 6]
  training.train(config, ("train.total_env_steps = 140",), run, resume=True)
  assert not (run / "before-2").exists()  # from a checkpoint, logs go on
  assert [row["updates"] for row in fakes.rows(run)] == [1, 2, 3, 4, 5, 6, 7]


def test_logs_of_each_run_are_kept_and_those_of_other_runs_left_alone(tmp_path, monkeypatch):
  mine, others = tmp_path / "runs" / "000", tmp_path / "runs" / "001"
  for folder in (tmp_path, mine, others):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("{}\n")
    (folder / "episodes.jsonl").touch()  # of no row
  (tmp_path / "lineage.jsonl").write_text("{}\n")
  (tmp_path / "runs.csv").write_text("run\n")
  (tmp_path / "scored.json").write_text("{}\n")
  (tmp_path / "runs" / "3d").mkdir()
  (tmp_path / "runs" / "3d" / "metrics.jsonl").write_text("{}\n")
  (tmp_path / "notes.jsonl").write_text("{}\n")
  (others / "config.gin").touch()
  kept = aside.set_aside(tmp_path)
  found = [str(path.relative_to(kept)) for path in sorted(kept.rglob("*")) if path.is_file()]
  of_all = ["runs.csv", "scored.json"]
  assert found == ["lineage.jsonl", "metrics.jsonl", "runs/000/metrics.jsonl", *of_all]
  assert (tmp_path / "runs" / "3d" / "metrics.jsonl").exists()
  assert (others / "metrics.jsonl").exists() and (tmp_path / "notes.jsonl").exists()
  assert aside.set_aside(tmp_path) is None
  (tmp_path / "eval.jsonl").write_text("{}\n")
  assert aside.set_aside(tmp_path) == tmp_path / "before-2"
  (tmp_path / "eval.jsonl").write_text("{}\n")

  def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(Path, "rename", full)
  with pytest.raises(RunError, match=r"cannot write .*: No space left on device; free space"):
    aside.set_aside(tmp_path)


def test_a_new_run_keeps_the_logs_of_others_that_lie_in_its_folder(config, tmp_path):
  run = tmp_path / "run"
  run.mkdir()
  (run / "eval.jsonl").write_text("mine\n")
  training.train(config, ("train.total_env_steps = 20",), run)
  assert (run / "before-1" / "eval.jsonl").read_text() == "mine\n"


def test_a_run_without_a_checkpoint_begins_with_the_same_weights_again(config, tmp_path):
  source, run = tmp_path / "source", tmp_path / "run"
  training.train(config, ("train.total_env_steps = 20",), source)
  weights = lambda path: {n: x for n, x in fakes.checksums(path).items() if n.startswith("params")}
  frozen = ("rmsprop.learning_rate = 0.0", "train.total_env_steps = 20")
  training.train(config, frozen, run, init_from=str(source))
  shutil.rmtree(run / "checkpoints")  # as if it had been killed before the first
  training.train(config, frozen, run, resume=True)
  assert weights(run) == weights(source)
  # Noted for this start as well: it may be killed as early.
  assert [start["init_from"] for start in fakes.rows(run, "restarts")] == [
    f"{source}/checkpoints/1"
  ] * 2
  for path in (run, source):
    shutil.rmtree(path / "checkpoints")
  with pytest.raises(UserError, match=r"^--init-from .*source/checkpoints/1: no checkpoint of upd"):
    training.train(config, frozen, run, resume=True)

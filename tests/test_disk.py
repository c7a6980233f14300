"""Disks that are full or become read-only: one clear line, and no checkpoint lost."""

import errno
import os
import shutil
import subprocess
from pathlib import Path

import fakes
import pytest

from selftune.core import config as config_module
from selftune.core import train as training
from selftune.core.api import files, jsonl
from selftune.core.api.errors import RunError, UserError
from selftune.core.record.workdir import locate

SAVING = ("train.checkpoint_seconds = 0.0", "train.writers = (@recorder(), @jsonl())")


pytestmark = pytest.mark.usefixtures("compiled_once")


@pytest.fixture
def disk(tmp_path):
  """A folder on a disk of its own, of 4 MB."""
  folder = tmp_path / "disk"
  folder.mkdir()
  mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
  if subprocess.run(mount, capture_output=True).returncode:
    pytest.skip("only root may mount a disk")
  yield folder
  subprocess.run(["umount", str(folder)], check=True)


def fill(disk):
  with (disk / "ballast").open("wb", buffering=0) as file:
    try:
      while True:
        file.write(bytes(4096))
    except OSError:
      pass


def empty(disk):
  (disk / "ballast").unlink()


def remount(disk, how):
  subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


FAULTS = {
  "full": (fill, empty, "No space left on device"),
  "read-only": (lambda disk: remount(disk, "ro"), lambda disk: remount(disk, "rw"), "Read-only"),
}


@pytest.mark.slow
@pytest.mark.parametrize("writers", ["(@recorder(), @jsonl())", "(@recorder(),)"])
def test_a_disk_that_fills_up(config, disk, monkeypatch, writers):
  """Noticed by the log, or where there is none by the checkpoint."""
  write = fakes.RecorderLog.write

  def write_and_fail(self, row):
    write(self, row)
    if row["updates"] == 3:
      fill(disk)

  run, bindings = disk / "run", [SAVING[0], f"train.writers = {writers}"]
  with monkeypatch.context() as patched:
    patched.setattr(fakes.RecorderLog, "write", write_and_fail)
    with pytest.raises(RunError, match="No space left on device") as caught:
      training.train(config, [*bindings, "train.total_env_steps = 4_000"], run)
  message = str(caught.value)
  assert str(run) in message and "\n" not in message
  empty(disk)
  last = fakes.checkpoints(run)[-1]
  more = f"train.total_env_steps = {20 * (last + 2)}"
  progress = training.train(config, [*bindings, more], run, resume=True)
  assert progress.updates == last + 2
  starts = (run / "restarts.jsonl").read_text().splitlines()
  assert f'"env_steps": {20 * last}' in starts[1]


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_on_a_bad_disk_does_not_start_and_loses_nothing(config, disk, fault):
  run = disk / "run"
  training.train(config, SAVING, run)
  before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
  inject, mend, reason = FAULTS[fault]
  inject(disk)
  for path, resume in ((disk / "new", False), (run, True)):
    with pytest.raises(UserError, match=rf"cannot write .*({reason}|choose another --workdir)"):
      training.train(config, [*SAVING, "train.total_env_steps = 200"], path, resume)
  mend(disk)
  after = {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.suffix != ".new"}
  assert {p: data for p, data in after.items() if p in before} == before
  more = training.train(config, [*SAVING, "train.total_env_steps = 200"], run, True)
  assert more.updates == 10


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
  path = tmp_path / "a.txt"
  files.write(path, "öld\r\n")
  assert path.read_bytes() == b"\xc3\xb6ld\r\n"
  with pytest.raises(KeyError):
    with files.whole(path) as file:
      file.write("half")
      raise KeyError
  with pytest.raises(RunError, match=r"a.txt: No space left on device; free space on its disk\.$"):
    with files.whole(path, "wb"):
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
  with files.whole(path) as first, files.whole(path) as second:
    first.write("first")
    second.write("second")
  assert path.read_text() == "first"  # which ended last
  assert list(tmp_path.iterdir()) == [path]


def test_what_else_fails_while_a_file_is_made_is_not_taken_for_the_file(tmp_path):
  with pytest.raises(ConnectionError, match="the environment"):
    with files.replacing(tmp_path / "a.mp4") as new:
      new.write_text("half")
      raise ConnectionError("the environment")
  assert list(tmp_path.iterdir()) == []
  with pytest.raises(RunError, match=r"cannot write .*a.mp4: No such file"):
    with files.replacing(tmp_path / "a.mp4"):
      pass  # nothing was made


@pytest.mark.slow
def test_weights_of_another_run(config, tmp_path, capfd):
  source = tmp_path / "source"
  training.train(config, ["train.checkpoints_to_keep = 9", SAVING[0]], source)
  kept = {n: s for n, s in fakes.checksums(source, 3).items() if n.startswith("params")}

  def first_weights(init_from, *bindings):
    target = tmp_path / "target"
    frozen = ["rmsprop.learning_rate = 0.0", "train.total_env_steps = 20", *bindings]
    shutil.rmtree(target, ignore_errors=True)
    training.train(config, frozen, target, init_from=str(init_from))
    return {n: s for n, s in fakes.checksums(target).items() if n.startswith("params")}

  newest = first_weights(source)
  assert first_weights(f"{source}@3") == kept != newest
  assert f"selftune: weights of update 3 of {source}/checkpoints.\n" in capfd.readouterr().err
  (start,) = jsonl.read(tmp_path / "target" / "restarts.jsonl")
  assert start["init_from"] == str(source / "checkpoints" / "3")
  # Another meta-optimiser: only weights are taken.
  tuned = ("agent.metaopt = @metagradient()", "metagradient.tune = ('entropy.cost',)")
  assert first_weights(source, *tuned) == newest

  for init_from, bindings, message in (
    (
      source,
      ["agent.heads = 2"],
      r"params\['policy'\] is float32\[1, 5, 3\] there and float32\[2,",
    ),
    (f"{source}@77", [], r"no checkpoint of update 77 in .*: there are \[1, 2, 3, 4, 5, 6\]"),
    (tmp_path / "absent", [], "--init-from .*absent: there is no checkpoint in "),
  ):
    with pytest.raises(UserError, match=message):
      first_weights(init_from, *bindings)
    assert not (tmp_path / "target").exists()


def test_names_of_checkpoints(tmp_path):
  folder = Path("a", "run@home", "checkpoints")
  assert locate("a/run@home") == locate("a/run@home/checkpoints") == (folder, None)
  assert locate("a/run@home@12") == locate("a/run@home/checkpoints/12") == (folder, 12)
  folder = tmp_path / "run@3"
  assert locate(str(folder)) == (tmp_path / "run" / "checkpoints", 3)
  folder.mkdir()  # a folder of that name counts more
  assert locate(str(folder)) == (folder / "checkpoints", None)
  assert locate(f"{folder}@12") == (folder / "checkpoints", 12)


def test_checkpoints_whose_configuration_is_gone(config, tmp_path):
  run = tmp_path / "run"
  (run / "checkpoints" / "6").mkdir(parents=True)
  with pytest.raises(UserError, match=r"holds checkpoints, up to update 6, of a run whose config"):
    training.train(config, SAVING, run)
  assert [path.name for path in run.iterdir()] == ["checkpoints"]


def test_env_steps_between_checkpoints_that_are_kept(config):
  loaded = config_module.load(config, ["train.keep_every_steps = 50"]).root  # of 20 an update
  assert loaded.keep_every == 3
  assert config_module.load(config).root.keep_every is None

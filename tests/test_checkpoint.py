"""Checkpoints: bit-equal round trips, and every way of losing one that is known."""

import asyncio
import errno
import gc
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, NamedTuple

import fakes
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore
from jax.sharding import NamedSharding, PartitionSpec

from selftune.core.api.errors import RunError, UserError
from selftune.core.api.types import LearnerState
from selftune.core.record.checkpoint import Checkpointer, checkpointer

HOST = {"env_steps": 640, "returns": [0.1, -1.5], "wandb": None, "seed": {"epoch": 2}}


class Moments(NamedTuple):
  mu: Any
  empty: tuple


def make_state(step: int = 3, width: int = 8) -> LearnerState:
  """Every kind of leaf that a state may hold, numbers that depend on `step`."""
  w = jax.random.normal(jax.random.key(step), (4, width))
  params = {"mlp/~/linear_0": {"w": w, "b": jnp.zeros(width)}, "half": w[0].astype(jnp.bfloat16)}
  return LearnerState(
    params=params,
    opt_state=(Moments(jax.tree.map(jnp.square, params), ()), (), jnp.asarray(True)),
    meta_state={"eta": {"loss.cost": jnp.full((3,), jnp.nan)}, "keys": jax.random.split(KEY, 2)},
    step=jnp.asarray(step, jnp.int32),
    key=jax.random.key(step, impl="rbg"),
    failure=jnp.asarray(-1, jnp.int32),
  )


KEY = jax.random.key(7)
ABSTRACT = jax.eval_shape(make_state)


def as_bytes(leaf):
  typed = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
  data = np.asarray(jax.random.key_data(leaf) if typed else leaf)
  return str(leaf.dtype), data.shape, data.tobytes()


def assert_same(actual, expected):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  assert jax.tree.map(as_bytes, actual) == jax.tree.map(as_bytes, expected)


@pytest.fixture
def checkpoints(tmp_path):
  checkpointer = Checkpointer(tmp_path / "run" / "checkpoints")
  yield checkpointer
  checkpointer.close()


def test_round_trip_is_equal_to_the_bit(checkpoints):
  assert checkpoints.restore(ABSTRACT) is None
  assert not checkpoints.directory.exists()
  state = make_state()
  checkpoints.save(3, state, HOST)
  step, restored, host, note = checkpoints.restore(ABSTRACT)
  assert (step, host, note) == (3, HOST, "")
  assert_same(restored, state)
  assert jax.random.bits(restored.key) == jax.random.bits(state.key)


def test_empty_arrays_come_back(checkpoints):
  state = make_state()._replace(opt_state=jnp.zeros((0, 3)), meta_state={})
  checkpoints.save(3, state, {})
  assert_same(checkpoints.restore(state).state, state)


@pytest.fixture
def stalled_disk(monkeypatch):
  """Arrays are not written before the function given is called, which says if any write waited."""
  open_array, go, waited = tensorstore.open, threading.Event(), threading.Event()

  async def stalled_open(*args, **kwargs):
    waited.set()
    await asyncio.to_thread(go.wait, 30)
    return await open_array(*args, **kwargs)

  def release():
    go.set()
    return waited.wait(30)

  monkeypatch.setattr(tensorstore, "open", stalled_open)
  yield release
  go.set()


def test_state_may_be_donated_and_host_changed_as_soon_as_save_returns(checkpoints, stalled_disk):
  update = jax.jit(lambda s: jax.tree.map(jnp.add, s, s), donate_argnums=0)
  fresh = lambda: make_state()._replace(meta_state={}, key=jnp.arange(1_000_000))
  state, expected, host = fresh(), fresh(), {"returns": [1.0]}
  checkpoints.save(3, state, host)
  host["returns"].append(2.0)
  after = update(state)
  if jax.__version_info__ < (0, 11):  # which copies what has been looked at, rather than donate it
    assert state.key.is_deleted() and state.params["half"].is_deleted()
  for _ in range(3):
    after = update(after)
  jax.block_until_ready(after)
  assert checkpoints.all_steps() == [] and stalled_disk()
  restored = checkpoints.restore(after)
  assert_same(restored.state, expected)
  assert restored.host == {"returns": [1.0]}
  jax.block_until_ready(update(restored.state))  # what was restored may be donated too
  assert_same(checkpoints.restore(after).state, expected)


def test_any_number_of_devices_to_any_other(checkpoints):
  mesh = jax.make_mesh((2,), ("batch",))
  replicated = NamedSharding(mesh, PartitionSpec())
  state = make_state()
  checkpoints.save(3, jax.device_put(state, replicated), {})
  single = checkpoints.restore(state).state
  assert_same(single, state)
  assert {leaf.sharding for leaf in jax.tree.leaves(single)} == {state.step.sharding}

  checkpoints.save(4, single, {})
  like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated), state)
  several = checkpoints.restore(like).state
  assert_same(several, state)
  assert all(x.sharding.is_equivalent_to(replicated, x.ndim) for x in jax.tree.leaves(several))


def save_three(checkpoints):
  for step in (1, 2, 3):
    checkpoints.save(step, make_state(step), {"at": step})
  checkpoints.close()


DAMAGES = {
  "half": lambda data: data[: len(data) // 2],
  "flipped bit": lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 4])
  + data[len(data) // 2 + 1 :],
}  # fmt: skip


def test_a_damaged_file_never_restores_anything_but_a_checkpoint_that_was_saved(checkpoints):
  save_three(checkpoints)
  good = {step: jax.tree.map(as_bytes, make_state(step)) for step in (2, 3)}
  fallbacks = set()
  for path in sorted((checkpoints.directory / "3").rglob("*")):
    if not path.is_file():
      continue
    data = path.read_bytes()
    for name, damage in [*DAMAGES.items(), ("deleted", None)]:
      if damage is None:
        path.unlink()
      else:
        path.write_bytes(damage(data))
      step, state, host, note = checkpoints.restore(ABSTRACT)
      assert jax.tree.map(as_bytes, state) == good[step], (path, name)
      assert host == {"at": step}
      if step == 2:
        fallbacks.add((path.relative_to(checkpoints.directory).parts[1], name))
        assert note.startswith(f"damaged: {checkpoints.directory / '3'} (")
        assert note.endswith("; going back to update 2") and "\n" not in note
    path.write_bytes(data)
  for name in [*DAMAGES, "deleted"]:
    assert {("state", name), ("document", name)} <= fallbacks


@pytest.mark.filterwarnings("error")
def test_arrays_cut_short_or_changed_are_noticed_in_one_line(checkpoints, caplog):
  # Many arrays: when one read fails, dozens are under way.
  rng = np.random.default_rng(0)
  arrays = [jax.device_put(rng.normal(size=50_000).astype(np.float32)) for _ in range(40)]
  state = make_state()._replace(params=arrays)
  checkpoints.save(2, state, {})
  checkpoints.save(3, state, {})
  checkpoints.close()
  files = [path for path in (checkpoints.directory / "3").rglob("*") if path.is_file()]
  largest = max(files, key=lambda path: path.stat().st_size)
  data = largest.read_bytes()
  for name, reason in [("half", "OUT_OF_RANGE"), ("flipped bit", "] does not match its checksum")]:
    largest.write_bytes(DAMAGES[name](data))
    restored = checkpoints.restore(state)
    assert restored.step == 2 and reason in restored.note
    assert_same(restored.state, state)
  assert caplog.records == []


def test_counters_changed_are_noticed(checkpoints):
  save_three(checkpoints)
  document = checkpoints.directory / "3" / "document" / "metadata"
  text = document.read_text()
  document.write_text(text.replace('"at": 3', '"at": 8'))
  assert document.read_text() != text
  assert "the document does not match its checksum" in checkpoints.restore(ABSTRACT).note


def test_an_empty_directory_and_unfinished_writing_are_passed_over(checkpoints):
  save_three(checkpoints)
  shutil.copytree(checkpoints.directory / "3", checkpoints.directory / "5.orbax-checkpoint-tmp")
  (checkpoints.directory / "4").mkdir()
  restored = checkpoints.restore(ABSTRACT)
  assert restored.step == 3 and "/4 (" in restored.note
  # The next save, whatever its number, takes both out of the way.
  checkpoints.save(4, make_state(4), {})
  checkpoints.wait()
  names = sorted(path.name for path in checkpoints.directory.iterdir())
  assert names == ["2", "3", "4", "4.given-up"]
  assert_same(checkpoints.restore(ABSTRACT).state, make_state(4))


def test_nothing_whole_is_an_error_that_lists_what_was_found(checkpoints):
  save_three(checkpoints)
  for step in (1, 2, 3):
    (checkpoints.directory / str(step) / "document" / "metadata").write_text('{"host": {"at"')
  with pytest.raises(UserError, match=r"no checkpoint is whole: .*/3 \(JSONDecode.*/1 \(JSOND"):
    checkpoints.restore(ABSTRACT)


def test_an_older_checkpoint_on_request(checkpoints):
  save_three(checkpoints)
  assert_same(checkpoints.restore(ABSTRACT, step=1).state, make_state(1))
  assert checkpoints.all_steps() == [1, 2, 3]
  with pytest.raises(UserError, match=r"no checkpoint of update 7 in .*: there are \[1, 2, 3\]"):
    checkpoints.restore(ABSTRACT, step=7)
  checkpoints.save(2, make_state(20), {})  # going on from 1 gives up what came after
  checkpoints.wait()
  assert checkpoints.all_steps() == [1, 2]
  assert_same(checkpoints.restore(ABSTRACT).state, make_state(20))


def test_what_is_given_up_is_kept_under_another_name(checkpoints):
  save_three(checkpoints)
  newest = checkpoints.directory / "3"
  for text in ("torn", "torn again"):
    (newest / "document" / "metadata").write_text(text)
    restored = checkpoints.restore(ABSTRACT)
    assert restored.step == 2 and "/3 (JSONDecode" in restored.note
    for step in (3, 4, 5):
      checkpoints.save(step, make_state(step), {})
    checkpoints.close()
    kept = checkpoints.directory / "3.given-up"
    assert (kept / "document" / "metadata").read_text() == text and (kept / "state").is_dir()
    # Neither counted among those that are kept, nor removed with those that are too many.
    assert checkpoints.all_steps() == [3, 4, 5]
    assert_same(checkpoints.restore(ABSTRACT).state, make_state(5))
    for step in (4, 5):
      shutil.rmtree(checkpoints.directory / str(step))
    shutil.copytree(newest, checkpoints.directory / "2")


MACHINE = {
  "files": (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), UserError, "Too many open files."),
  "disk": (OSError(errno.EIO, os.strerror(errno.EIO)), UserError, "Input/output error."),
  "arrays": (
    ValueError("PERMISSION_DENIED: Error opening file [OS error 13: EACCES Permission denied]"),
    UserError,
    "Permission denied.",
  ),
  "memory": (MemoryError(), MemoryError, ""),
}


@pytest.mark.parametrize("case", MACHINE)
def test_what_the_machine_cannot_read_now_is_not_damaged(checkpoints, monkeypatch, case):
  error, kind, told = MACHINE[case]
  save_three(checkpoints)

  def fail(*_):
    try:
      raise error
    except Exception as cause:
      raise RuntimeError("the read failed") from cause  # libraries wrap what they get

  with monkeypatch.context() as patched:
    patched.setattr(checkpointer, "read_arrays", fail)
    with pytest.raises(kind, match=re.escape(f"read {checkpoints.directory / '3'}") + f".*{told}"):
      checkpoints.restore(ABSTRACT)
  assert checkpoints.restore(ABSTRACT).step == 3


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (
      lambda s: make_state(width=16),
      r"params\['half'\] is bfloat16\[8\] there and bfloat16\[16\] here",
    ),
    (lambda s: s._replace(key=jax.random.key(0)), r"key is key<rbg>\[4\] there and key<fry>\[2\]"),
    (lambda s: s._replace(step=jnp.float32(0)), r"step is int32\[\] there and float32\[\] here"),
    (lambda s: s._replace(meta_state={"nu": s.step}), r"it has no meta_state\['nu'\]"),
    (lambda s: s._replace(meta_state={}), r"it has meta_state\['eta'\]\['loss.cost'\] besides"),
  ],
)
def test_checkpoint_of_another_agent(checkpoints, change, message):
  checkpoints.save(3, make_state(), {})
  with pytest.raises(UserError, match=rf"/3 was written by another agent: {message}"):
    checkpoints.restore(change(make_state()))
  assert checkpoints.all_steps() == [3]


def test_retention(checkpoints):
  for step in (1, 2, 3, 10, 11):
    checkpoints.save(step, make_state(step), {})
  checkpoints.wait()
  assert checkpoints.all_steps() == [3, 10, 11]
  again = Checkpointer(checkpoints.directory, max_to_keep=2, keep_every=8)
  again.restore(ABSTRACT)
  for step in (12, 13, 19, 20, 22):
    again.save(step, make_state(step), {})
  again.close()
  assert again.all_steps() == [3, 11, 19, 20, 22]
  with pytest.raises(UserError, match="max_to_keep = 1: keep 2"):
    Checkpointer(checkpoints.directory, max_to_keep=1)


def test_the_same_update_is_saved_once_and_an_earlier_one_never(checkpoints):
  checkpoints.save(3, make_state(3), {"first": True})
  checkpoints.save(3, make_state(4), {"first": False})
  assert checkpoints.restore(ABSTRACT).host == {"first": True}
  checkpoints.save(3, make_state(4), {"first": False})
  assert checkpoints.restore(ABSTRACT).host == {"first": True}
  checkpoints.save(5, make_state(5), {})
  with pytest.raises(ValueError, match="update 4 comes before the last one saved, 5"):
    checkpoints.save(4, make_state(4), {})


def test_another_run_is_not_written_over(checkpoints):
  save_three(checkpoints)
  with pytest.raises(UserError, match="holds checkpoints of another run, up to update 3"):
    Checkpointer(checkpoints.directory).save(4, make_state(), {})
  assert checkpoints.all_steps() == [1, 2, 3]


def test_host_that_is_not_json_fails_at_once(checkpoints):
  with pytest.raises(TypeError, match="float32 is not JSON"):
    checkpoints.save(1, make_state(), {"mean_return": np.float32(1.0)})
  assert checkpoints.all_steps() == []


def test_a_directory_that_cannot_be_made(tmp_path):
  (tmp_path / "file").write_text("in the way")
  for directory in (tmp_path / "file", tmp_path / "file" / "checkpoints"):
    checkpointer = Checkpointer(directory)
    assert checkpointer.restore(ABSTRACT) is None
    with pytest.raises(RunError, match=f"cannot write the checkpoint of update 1 in {directory}"):
      checkpointer.save(1, make_state(), {})
      checkpointer.wait()
    checkpointer.close()


def test_a_directory_that_is_lost_leaves_nobody_waiting(checkpoints):
  checkpoints.save(1, make_state(), {})
  checkpoints.wait()
  shutil.rmtree(checkpoints.directory)
  checkpoints.directory.write_text("in the way")
  before = set(threading.enumerate())
  with pytest.raises(RunError, match=r"cannot write the checkpoint of update 2 .*there: none$"):
    checkpoints.save(2, make_state(), {})
    checkpoints.wait()
  fakes.wait_for(lambda: set(threading.enumerate()) <= before, fakes.SOON)


@pytest.mark.parametrize("name", ["lr=[0.1]", "C:\\runs", "gs:/bucket", "s3:/bucket", "\udcff"])
def test_names_that_could_not_be_read_back_are_refused(tmp_path, name):
  with pytest.raises(UserError, match="checkpoints: checkpoints are kept in folders"):
    Checkpointer(tmp_path / name / "checkpoints")
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["lr=0.1, x:y", "a@3", "*?{}]", "%20#", "ü\n", "-$HOME|'\"", "C:"])
def test_other_names_are_read_back(tmp_path, name):
  checkpoints, state = Checkpointer(tmp_path / name / "checkpoints"), {"w": jnp.arange(3.0)}
  checkpoints.save(1, state, HOST)
  assert_same(checkpoints.restore(state).state, state)


def test_what_is_no_checkpoint_is_passed_over(checkpoints):
  checkpoints.directory.mkdir(parents=True)
  for name in ("4", "foo", ".nfs0001", "metadata"):
    (checkpoints.directory / name).write_text("stray")
  for name in ("012", "\u0663", "notes", "5.orbax-checkpoint-tmp"):
    (checkpoints.directory / name).mkdir()
  assert checkpoints.all_steps() == [] and checkpoints.restore(ABSTRACT) is None
  for step in (3, 4):  # 4 is a file
    checkpoints.save(step, make_state(step), HOST)
    assert_same(checkpoints.restore(ABSTRACT).state, make_state(step))
  assert checkpoints.all_steps() == [3, 4]
  assert (checkpoints.directory / "foo").read_text() == "stray"


@pytest.mark.parametrize("step", [None, 2])
def test_a_checkpoint_that_a_run_removes_while_it_is_read(checkpoints, monkeypatch, step):
  """By the time it is read the run has saved 4, 5 and 6, and keeps no other."""
  save_three(checkpoints)
  read = checkpointer.read_arrays

  def read_late(directory, candidate, entries):
    if candidate == (step or 3):
      for new in (4, 5, 6):
        checkpoints.save(new, make_state(new), {"at": new})
      checkpoints.close()
    return read(directory, candidate, entries)

  monkeypatch.setattr(checkpointer, "read_arrays", read_late)
  beside = Checkpointer(checkpoints.directory)
  if step is None:
    restored = beside.restore(ABSTRACT)
    assert (restored.step, restored.host, restored.note) == (6, {"at": 6}, "")
    assert_same(restored.state, make_state(6))
  else:
    with pytest.raises(UserError, match=r"no checkpoint of update 2 in .*: there are \[4, 5, 6\]"):
      beside.restore(ABSTRACT, step)


@pytest.fixture
def full_disk():
  """Files over 64 kB cannot be written, until the function given is called."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, hard))
  restore = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  yield restore
  restore()


@pytest.mark.parametrize("surfaces_at", ["wait", "save", "close", "restore"])
def test_a_write_that_fails_in_the_background_surfaces(checkpoints, surfaces_at, full_disk, caplog):
  checkpoints.save(1, make_state(), {})
  big = make_state(2)._replace(opt_state=jax.random.normal(KEY, (100_000,)))
  checkpoints.save(2, big, {})
  with pytest.raises(
    RunError, match=r"cannot write the checkpoint of update 2 .*too large.*that are there: \[1\]$"
  ):
    match surfaces_at:
      case "wait":
        checkpoints.wait()
      case "save":
        checkpoints.save(3, make_state(3), {})
      case "close":
        checkpoints.close()
      case "restore":
        checkpoints.restore(ABSTRACT)
  assert_same(checkpoints.restore(ABSTRACT).state, make_state())
  full_disk()
  checkpoints.save(3, big, {})
  checkpoints.wait()
  assert sorted(path.name for path in checkpoints.directory.iterdir()) == ["1", "3"]
  assert_same(checkpoints.restore(big).state, big)
  gc.collect()  # asyncio logs what a task raised when the task goes
  assert caplog.records == []


def test_nothing_is_pickled(checkpoints):
  root = Path(__file__).parents[1]
  sources = [path for part in ("core", "plugins") for path in (root / part).rglob("*.py")]
  words = ("pickle", "joblib", "dill", "marshal", "shelve")
  assert len(sources) > 80
  assert not [path for path in sources if any(word in path.read_text() for word in words)]
  save_three(checkpoints)
  files = [path.read_bytes() for path in checkpoints.directory.rglob("*") if path.is_file()]
  assert files and not any(data[:1] == b"\x80" and data[-1:] == b"." for data in files)


KILLED = """
import os, signal, sys
import tensorstore
from selftune.core import experiment
from selftune.core.record.checkpoint import Checkpointer
sys.path.insert(0, {tests!r})
import test_checkpoint as t

checkpoints = Checkpointer({directory!r})
checkpoints.save(1, t.make_state(1), t.HOST)
checkpoints.wait()
open_array, opened = tensorstore.open, []

async def open_three(*args, **kwargs):
  opened.append(await open_array(*args, **kwargs))
  if len(opened) == 3:
    os.kill(os.getpid(), signal.SIGKILL)
  return opened[-1]

tensorstore.open = open_three
checkpoints.save(2, t.make_state(2), t.HOST)
checkpoints.wait()
"""


def test_kill_in_the_middle_of_saving_leaves_the_previous_one(checkpoints):
  script = KILLED.format(tests=str(Path(__file__).parent), directory=str(checkpoints.directory))
  process = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60)
  assert process.returncode == -signal.SIGKILL, process.stderr.decode()
  names = sorted(path.name for path in checkpoints.directory.iterdir())
  assert names[0] == "1" and names[1].startswith("2.") and len(names) == 2
  step, state, host, note = checkpoints.restore(ABSTRACT)
  assert (step, host, note) == (1, HOST, "")
  assert_same(state, make_state(1))
  checkpoints.save(2, make_state(2), HOST)
  checkpoints.wait()
  assert sorted(path.name for path in checkpoints.directory.iterdir()) == ["1", "2"]


def test_orbax_is_imported_only_when_needed():
  script = "import sys, selftune.core.record.checkpoint as c; c.Checkpointer('x').all_steps(); "
  script += "sys.exit('orbax.checkpoint' in sys.modules)"
  assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0

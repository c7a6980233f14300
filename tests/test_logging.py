"""The log: nothing lost, nothing torn, and what fails in a writer's thread comes out in main."""

import dataclasses
import io
import json
import struct
import sys
import threading
import time
from collections.abc import Callable

import fakes
import numpy as np
import pytest
import wandb
from matplotlib.figure import Figure

from selftune.core import train as training
from selftune.core.api import files, jsonl
from selftune.core.api.contracts import RunInfo
from selftune.core.api.display import Display
from selftune.core.api.errors import NonFiniteError, RunError
from selftune.core.api.types import Episode, Histogram
from selftune.core.record.episodes import EpisodeStats
from selftune.core.record.lane import QUEUE_SIZE
from selftune.core.record.logging import Logger
from selftune.plugins.writers.jsonl import Jsonl
from selftune.plugins.writers.terminal import Terminal
from selftune.plugins.writers.wandb import WandB


def run_info(workdir, resumed_at=0, ids=None, config=None):
  return RunInfo(str(workdir), config or {}, 1000, resumed_at, {} if ids is None else ids)


def rows_of(path):
  def reject(constant):
    raise AssertionError(f"{constant} is not JSON")

  return [json.loads(line, parse_constant=reject) for line in path.read_text().splitlines()]


@dataclasses.dataclass(frozen=True)
class Fake:
  """A writer that keeps its rows, and does `effect` at each."""

  effect: Callable[[], object] = lambda: None
  required: bool = False
  rows: list = dataclasses.field(default_factory=list)
  closed: list = dataclasses.field(default_factory=list)

  def open(self, run):
    return self

  def write(self, row):
    self.effect()
    self.rows.append((row, threading.current_thread().name))

  def write_episodes(self, episodes):
    self.rows.extend(episodes)

  def close(self):
    self.closed.append(True)


def fail():
  raise OSError(28, "No space left on device")


def test_rows_reach_every_writer_in_order_on_its_own_thread(tmp_path):
  fakes = {"a": Fake(required=True), "b": Fake()}
  with Logger(fakes, run_info(tmp_path), wall_offset=50.0) as log:
    for step in range(100):
      log.log({"loss/total": np.float32(0.5)}, env_steps=np.int64(step))
    log.log_episodes([Episode(99, 1.0, 9)])
  for name, fake in fakes.items():
    assert fake.closed == [True]
    *rows, episode = fake.rows
    assert episode == Episode(99, 1.0, 9)
    assert [row["env_steps"] for row, _ in rows] == list(range(100))
    assert {thread for _, thread in rows} == {f"log-{name}"}
    assert all(type(v) in (int, float) for row, _ in rows for v in row.values())
    times = [row["wall_time"] for row, _ in rows]
    assert times == sorted(times) and 50.0 <= times[0] <= times[-1] < 55.0


def test_failure_of_a_required_writer_surfaces_at_the_next_log(tmp_path):
  bystander = Fake()
  log = Logger({"disk": Fake(fail, required=True), "other": bystander}, run_info(tmp_path))
  log.log({}, 1)
  fakes.wait_for(lambda: log._lanes[0]._failure)
  with pytest.raises(OSError, match="No space left") as caught:
    log.log({}, 2)
  assert caught.value.__notes__ == ["The log writer 'disk' failed with this."]
  with pytest.raises(OSError, match="No space left"):
    log.close()
  log.close()  # idempotent
  assert bystander.closed == [True]


def test_a_required_writer_that_exits_ends_the_run_with_its_name(tmp_path):
  log = Logger({"disk": Fake(lambda: sys.exit(3), required=True)}, run_info(tmp_path))
  log.log({}, 1)
  with pytest.raises(RunError, match=r"^the log writer 'disk' raised SystemExit\(3\)"):
    log.flush()
  with pytest.raises(RunError):
    log.close()


def test_flush_tells_of_what_failed_while_it_waited(tmp_path):
  let_go = threading.Event()

  def slow():
    let_go.wait()
    fail()

  log = Logger({"disk": Fake(slow, required=True)}, run_info(tmp_path))
  log.log({}, 1)
  threading.Timer(0.2, let_go.set).start()
  begun = time.monotonic()
  with pytest.raises(OSError, match="No space left"):
    log.flush(patience=20.0)
  assert time.monotonic() - begun < 10
  with pytest.raises(OSError, match="No space left"):
    log.close()


def test_failure_surfaces_at_close_but_hides_no_other_exception(tmp_path, caplog):
  with pytest.raises(OSError, match="No space left"):
    with Logger({"disk": Fake(fail, required=True)}, run_info(tmp_path)) as log:
      log.log({}, 1)
  with pytest.raises(KeyError, match="the real trouble"):
    with Logger({"disk": Fake(fail, required=True)}, run_info(tmp_path)) as log:
      log.log({}, 1)
      raise KeyError("the real trouble")
  assert "could not be closed" in caplog.text


@pytest.mark.parametrize(("ended_with", "told"), [(RunError, 0), (NonFiniteError, 1)])
def test_a_bad_disk_is_told_once(tmp_path, caplog, ended_with, told):
  def full(*_):
    raise RunError("cannot write metrics.jsonl")

  with pytest.raises(ended_with, match="the checkpoint"):
    with Logger({"disk": Fake(full, required=True)}, run_info(tmp_path)) as log:
      log.log({}, 1)
      raise ended_with("the checkpoint")
  assert len(caplog.records) == told


def test_optional_writer_that_fails_warns_once(tmp_path, caplog):
  with Logger({"jsonl": Jsonl(), "net": Fake(fail)}, run_info(tmp_path)) as log:
    for step in range(20):
      log.log({}, step)
  assert len(rows_of(tmp_path / "metrics.jsonl")) == 20
  assert [r.getMessage() for r in caplog.records] == [
    "writer 'net' failed, training goes on: OSError(28, 'No space left on device')"
  ]


def test_optional_writer_that_hangs_delays_nothing(tmp_path, caplog):
  hang, rows = threading.Event(), QUEUE_SIZE + 100
  log = Logger({"net": Fake(hang.wait), "jsonl": Jsonl()}, run_info(tmp_path))
  begun = time.monotonic()
  for step in range(rows):
    log.log({"loss/total": 1.0}, step)
  log.flush()
  log.close(patience=0.5)
  hang.set()
  assert time.monotonic() - begun < fakes.SOON
  assert len(rows_of(tmp_path / "metrics.jsonl")) == rows
  messages = [r.getMessage() for r in caplog.records]
  assert ["is too slow" in messages[0], "did not finish" in messages[1]] == [True, True]
  assert len(messages) == 2
  fakes.wait_for(lambda: "log-net" not in [thread.name for thread in threading.enumerate()])


def test_required_writer_that_hangs_is_an_error_at_close(tmp_path):
  hang = threading.Event()
  log = Logger({"disk": Fake(hang.wait, required=True)}, run_info(tmp_path))
  log.log({}, 1)
  for wait in (log.flush, log.close):
    with pytest.raises(
      RunError, match=r"^the log writer 'disk' has taken no row for 0 s: .*resume"
    ):
      wait(patience=0.1)
  hang.set()


@pytest.mark.parametrize("wait", [Logger.flush, Logger.close])
def test_required_writer_that_is_slow_is_waited_for_while_it_takes_rows(tmp_path, wait):
  slow = Fake(lambda: time.sleep(0.1), required=True)
  with Logger({"disk": slow}, run_info(tmp_path)) as log:
    for step in range(13):
      log.log({}, step)
    wait(log, patience=1.0)  # all rows together take longer
    assert len(slow.rows) == 13


def test_the_time_that_required_writers_take_is_not_taken_from_the_others(tmp_path, caplog):
  go = threading.Event()
  net = Fake(go.wait)
  # It goes on once the required one is done: all that it was given before has then gone by.
  disk = Fake(lambda: time.sleep(0.1) or len(disk.rows) < 6 or go.set(), required=True)
  with Logger({"net": net, "disk": disk}, run_info(tmp_path)) as log:
    for step in range(7):
      log.log({}, step)
    log.close(patience=0.5)
  assert len(net.rows) == 7 and net.closed and not caplog.records


def test_writer_that_cannot_open(tmp_path, caplog):
  (tmp_path / "file").write_text("")
  with pytest.raises(RunError, match=r"^cannot write .*file/run: Not a directory\.$"):
    Logger({"jsonl": Jsonl()}, run_info(tmp_path / "file" / "run"))
  broken = dataclasses.make_dataclass("Broken", [("required", bool, False)], frozen=True)
  broken.open = lambda self, run: fail()
  with Logger({"net": broken(), "jsonl": Jsonl()}, run_info(tmp_path / "run")) as log:
    log.log({}, 1)
  assert "writer 'net' did not open, going on without it" in caplog.text
  assert len(rows_of(tmp_path / "run" / "metrics.jsonl")) == 1


def test_log_refuses_arrays(tmp_path):
  with Logger({}, run_info(tmp_path)) as log:
    with pytest.raises(ValueError, match=r"'tuned/x' has shape \(3,\)"):
      log.log({"tuned/x": np.zeros(3)}, 1)


def test_histograms_have_a_file_of_their_own(tmp_path):
  whole = Histogram(np.array([1.0, 0.0]), np.array([-7.0, 0.1, np.float32(7.3)]))
  torn = Histogram(np.array([0.0, 0.0]), np.array([np.nan, 0.0, np.nan]))
  blind = Fake()
  with Logger({"jsonl": Jsonl(), "blind": blind}, run_info(tmp_path)) as log:
    log.log({"x": 1}, 1)
    assert not (tmp_path / "histograms.jsonl").exists()
    log.log({"beta": whole, "beta/mean": -7.0, "other": torn}, 2)
  _, row = rows_of(tmp_path / "metrics.jsonl")
  assert row.keys() == {"env_steps", "wall_time", "beta/mean"}
  assert rows_of(tmp_path / "histograms.jsonl") == [
    {"env_steps": 2, "name": "beta", "counts": [1, 0], "edges": [-7.0, 0.1, 7.3]}
  ]
  assert len(blind.rows) == 2 and blind.closed


def test_rows_are_strict_json(tmp_path):
  with Logger({"jsonl": Jsonl()}, run_info(tmp_path)) as log:
    log.log({"a": np.float32(0.1), "b": np.nan, "c": np.inf, "d": np.array(3)}, 123456789)
    # Flushed at once: readable while the run goes on.
    fakes.wait_for(lambda: rows_of(tmp_path / "metrics.jsonl"))
  (row,) = rows_of(tmp_path / "metrics.jsonl")
  assert row.pop("wall_time") >= 0
  assert row == {"env_steps": 123456789, "a": 0.1, "b": None, "c": None, "d": 3}


def test_resume_drops_what_lies_beyond_the_checkpoint_and_torn_lines(tmp_path):
  with Logger({"jsonl": Jsonl()}, run_info(tmp_path)) as log:
    for step in (10, 20, 30):
      log.log({"x": step, "h": Histogram(np.ones(1), np.arange(2.0))}, step)
      log.log_episodes([Episode(step, step / 10, 5)])
      log.log_evaluation({"env_steps": step - 1, "mean": 0.5})
  for name in ("metrics", "episodes", "eval", "histograms"):
    with (tmp_path / f"{name}.jsonl").open("a") as file:
      file.write('{"env_steps": 1')  # killed in the middle of a write
  with Logger({"jsonl": Jsonl()}, run_info(tmp_path, resumed_at=20)) as log:
    log.log({"x": 31}, 31)
    log.log_episodes([Episode(31, -1.5, 7)])
  rows = rows_of(tmp_path / "metrics.jsonl")
  assert [(row["env_steps"], row["x"]) for row in rows] == [(10, 10), (20, 20), (31, 31)]
  assert rows_of(tmp_path / "episodes.jsonl") == [
    {"env_steps": 10, "return": 1.0, "length": 5},
    {"env_steps": 20, "return": 2.0, "length": 5},
    {"env_steps": 31, "return": -1.5, "length": 7},
  ]
  assert [row["env_steps"] for row in rows_of(tmp_path / "eval.jsonl")] == [9, 19]
  assert [row["env_steps"] for row in rows_of(tmp_path / "histograms.jsonl")] == [10, 20]
  names = sorted(p.name for p in tmp_path.iterdir())
  assert names == ["episodes.jsonl", "eval.jsonl", "histograms.jsonl", "metrics.jsonl"]


def test_kill_while_truncating_leaves_the_old_file(tmp_path, monkeypatch):
  path = tmp_path / "metrics.jsonl"
  path.write_text('{"env_steps": 1}\n{"env_steps": 2}\n')
  monkeypatch.setattr(files.os, "fsync", lambda _: fail())
  with pytest.raises(RunError, match=r"cannot write .*metrics.jsonl: No space left .*; free space"):
    jsonl.truncate(path, 1)
  assert list(tmp_path.iterdir()) == [path]
  assert path.read_text() == '{"env_steps": 1}\n{"env_steps": 2}\n'


def test_episode_stats_keep_the_last_hundred():
  stats = EpisodeStats()
  assert stats.summary() == {"episodes": 0}
  stats = stats.add([Episode(10, 1.0, 10), Episode(20, 2.0, 30)])
  assert stats.summary() == {"episode_return": 1.5, "episode_length": 20.0, "episodes": 2}
  for i in range(1, 151):
    stats = stats.add([Episode(i, float(i), 2 * i)])
  # 51 ... 150
  assert stats.summary() == {"episode_return": 100.5, "episode_length": 201.0, "episodes": 152}
  restored = EpisodeStats.from_json(json.loads(json.dumps(stats.to_json())))
  assert restored == stats
  assert restored.add([Episode(0, 151.0, 0)]).windows[None].returns[0] == 52.0


def test_every_run_counts_as_much_as_any_other():
  stats = EpisodeStats().add([Episode(0, 1.0, 10, 0)] * 3 + [Episode(0, 9.0, 30, 7)] * 200)
  assert stats.summary() == {"episode_return": 5.0, "episode_length": 20.0, "episodes": 203}
  assert stats.of(0).summary() == {"episode_return": 1.0, "episode_length": 10.0, "episodes": 3}
  assert stats.of(1).summary() == {"episodes": 0}
  assert EpisodeStats.from_json(json.loads(json.dumps(stats.to_json()))) == stats


def test_speed_and_eta_count_this_process_only(capsys):
  with Display(2_200, "steps", begun=800, interval=0.0) as display:
    display.show(900, now=500.0)  # resumed
    display.show(1000, now=510.0)
    display.show(1900, "return 0.5", now=570.0)  # its speed is that since 510: the window
    display.show(1900, "return 0.6", now=571.0)  # no step since
  assert capsys.readouterr().err.splitlines() == [
    "900/2,200 steps",
    "1,000/2,200 steps | 10 steps/s | ETA 0:02:00",
    "1,900/2,200 steps | 15 steps/s | ETA 0:00:20 | return 0.5",
    "1,900/2,200 steps | 15 steps/s | ETA 0:00:20 | return 0.6",
  ]


def test_speed_is_of_the_last_seconds_alone(capsys):
  with Display(10**6, "steps", interval=1e9, silent=149.0) as display:
    for second in range(0, 110, 10):
      display.show(100 * second + 1, now=float(second))
    for second in range(110, 160, 10):
      display.show(10_001 + 10 * (second - 100), now=float(second))
  assert capsys.readouterr().err == "10,501/1,000,000 steps | 10 steps/s | ETA 1 day, 3:29:10\n"


def test_what_no_timedelta_holds(capsys):
  with Display(10**18, "points", interval=0.0) as display:
    for k in (1, 2):
      display.show(k, now=10.0 * k)
  assert (
    capsys.readouterr().err.splitlines()[-1] == f"2/{10**18:,} points | ETA 36500 days, 0:00:00"
  )


def test_what_is_over_soon_is_worth_no_line(capsys):
  with Display(3, "episodes", interval=5.0, silent=5.0) as display:
    display.show(3, now=4.0)
  assert capsys.readouterr().err == ""
  with Display(3, "episodes", interval=5.0, silent=5.0) as display:
    for second in range(9):
      display.show(second // 4, now=float(second))
  assert capsys.readouterr().err.splitlines() == [
    "1/3 episodes",
    "2/3 episodes | ETA 0:00:04",
  ]


def test_terminal_that_draws_nothing_gets_lines(tmp_path, monkeypatch):
  screen = io.StringIO()
  screen.isatty = lambda: True
  monkeypatch.setattr("sys.stderr", screen)
  monkeypatch.setenv("TERM", "dumb")
  writer = Terminal().open(run_info(tmp_path))
  writer.write({"env_steps": 500, "wall_time": 1.0})
  writer.close()
  assert screen.getvalue() == "500/1,000 steps\n"


def test_terminal_prints_a_line_an_interval_when_not_a_tty(tmp_path, capsys):
  writer = Terminal(interval=10.0).open(run_info(tmp_path))
  for second in range(0, 26, 5):
    writer.write({"env_steps": 10 * second, "wall_time": float(second)})
  writer.close()
  out, err = capsys.readouterr()
  assert out == ""
  assert [line.split("/")[0] for line in err.splitlines()] == ["0", "100", "200", "250"]


def test_terminal_draws_a_bar_on_a_tty(tmp_path, monkeypatch):
  screen = io.StringIO()
  screen.isatty = lambda: True
  monkeypatch.setattr("sys.stderr", screen)
  monkeypatch.setenv("COLUMNS", "120")
  writer = Terminal().open(run_info(tmp_path, resumed_at=250))
  writer.write({"env_steps": 500, "wall_time": 1.0})
  writer.write({"env_steps": 750, "wall_time": 2.0, "episode_return": 0.25})
  writer.close()
  assert "75%" in screen.getvalue()
  assert "750/1,000 steps | 250 steps/s | ETA 0:00:01 | return 0.25" in screen.getvalue()


def wandb_records(path):
  """W&B's file of a run: LevelDB's log format, each record a protobuf."""
  from wandb.proto.wandb_internal_pb2 import Record

  data, position, part = path.read_bytes(), 7, b""
  while position + 7 <= len(data):
    if (left := 32768 - position % 32768) < 7:
      position += left
    _, length, kind = struct.unpack_from("<IHB", data, position)
    part += data[position + 7 : position + 7 + length]
    position += 7 + length
    if kind in (1, 4):  # a full record, or the last part of one
      yield Record.FromString(part)
      part = b""


def test_wandb_offline_holds_config_rows_and_media_against_env_steps(tmp_path, monkeypatch):
  monkeypatch.setenv("WANDB_MODE", "offline")
  monkeypatch.setenv("WANDB_SILENT", "true")
  config = {"train.seed": 3, "metagradient.tune": ("entropy.cost",)}
  picture = tmp_path / "curves.png"
  Figure(figsize=(1, 1)).savefig(picture)
  ids, saved = {}, {}
  for resumed_at in (0, 20):
    run = run_info(tmp_path, resumed_at, ids, config)
    with Logger({"wandb": WandB(tags=("t",), group="g")}, run) as log:
      log.log({"tuned/entropy.cost/0": 0.25}, resumed_at + 10)
      beta = Histogram(np.array([3.0, 1.0]), np.array([-7.0, -6.5, -6.0], np.float32))
      log.log({"tuned/entropy.cost/0": 0.5, "x": np.nan, "beta": beta}, resumed_at + 20)
      log.log_media("curves", picture)
      log.log_evaluation({"env_steps": resumed_at + 5, "mean": 0.75})
    saved = saved or dict(ids)
    time.sleep(1.0)  # W&B names a folder by id and second
  assert ids == saved and len(ids["wandb"]) == 8
  paths = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
  for resumed_at, path in zip((0, 20), paths, strict=True):
    records = list(wandb_records(path))
    (run,) = [r.run for r in records if r.HasField("run")]
    assert (run.run_id, run.project, run.run_group, list(run.tags)) == (
      *(ids["wandb"], "selftune", "g", ["t"]),
    )
    saved_config = {u.key: json.loads(u.value_json) for u in run.config.update}
    assert saved_config["train.seed"] == 3
    assert saved_config["metagradient.tune"] == "('entropy.cost',)"
    metrics = [r.metric for r in records if r.HasField("metric")]
    assert ("*", "env_steps") in [(m.glob_name, m.step_metric) for m in metrics]
    rows = [
      {i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in r.history.item}
      for r in records
      if r.HasField("history")
    ]
    logged = [(r["env_steps"], r.get("tuned/entropy.cost/0"), r.get("eval/mean")) for r in rows]
    assert logged == [
      (resumed_at + 10, 0.25, None),
      (resumed_at + 20, 0.5, None),
      (resumed_at + 20, None, None),  # the histogram
      (resumed_at + 20, None, None),  # the picture
      (resumed_at + 5, None, 0.75),
    ]
    drawn = {"beta._type": "histogram", "beta.values": [3, 1], "beta.bins": [-7.0, -6.5, -6.0]}
    assert [drawn.items() <= row.items() for row in rows] == [False, False, True, False, False]
    (files,) = [r.files.files for r in records if r.HasField("files") and "curves" in str(r.files)]
    assert (path.parent / "files" / files[0].path).read_bytes() == picture.read_bytes()


class FakeWandB:
  """What `wandb.init` gives; each call of it does what `effects` says of its mode."""

  def __init__(self, monkeypatch, **effects):
    self.opened, self.rows, self.finished = [], [], threading.Event()
    self._effects = effects
    monkeypatch.setattr(wandb, "init", self.init)

  def init(self, mode, **options):
    self.opened.append((mode, options))
    self._effects.get(mode, lambda: None)()
    return self

  def define_metric(self, *_, **__): ...

  def log(self, row):
    self.rows.append(row)

  def finish(self):
    self.finished.set()


def unreachable():
  raise wandb.errors.CommError("no route to host\nat all")


def test_wandb_that_is_not_reached_is_logged_offline(tmp_path, monkeypatch, caplog):
  fake = FakeWandB(monkeypatch, online=unreachable)
  ids = {}
  with Logger({"wandb": WandB(mode="online")}, run_info(tmp_path, ids=ids)) as log:
    log.log({"x": 1.0}, 1)
  assert [mode for mode, _ in fake.opened] == ["online", "offline"]
  own = ids["wandb"]
  assert [options["id"] for _, options in fake.opened] == [own, f"{own}-offline"]
  assert fake.opened[0][1]["settings"].init_timeout == 20
  assert fake.opened[0][1]["settings"].finish_timeout == 20
  assert [row["x"] for row in fake.rows] == [1.0] and fake.finished.is_set()
  assert [r.getMessage() for r in caplog.records] == [
    "W&B is not reached (no route to host), the run is logged offline; upload it by: "
    f"wandb sync --id {own} {tmp_path}/wandb/offline-run-*-{own}-offline"
  ]


def test_wandb_that_cannot_start_at_all_costs_one_warning(tmp_path, monkeypatch, caplog):
  FakeWandB(monkeypatch, online=unreachable, offline=fail)
  with Logger({"wandb": WandB(mode="offline"), "jsonl": Jsonl()}, run_info(tmp_path)) as log:
    log.log({}, 1)
    log.log({}, 2)
  assert len(rows_of(tmp_path / "metrics.jsonl")) == 2
  (record,) = caplog.records
  assert "writer 'wandb' did not open, going on without it" in record.getMessage()


def test_wandb_that_hangs_delays_nothing_and_then_gets_what_was_kept(tmp_path, monkeypatch, caplog):
  hang, rows = threading.Event(), QUEUE_SIZE + 50
  fake = FakeWandB(monkeypatch, offline=hang.wait)
  begun = time.monotonic()
  log = Logger({"wandb": WandB(mode="offline")}, run_info(tmp_path))
  for step in range(rows):
    log.log({}, step)
  assert time.monotonic() - begun < fakes.SOON
  assert [r.getMessage() for r in caplog.records] == [
    "writer 'wandb' is too slow, rows are dropped"
  ]
  hang.set()
  log.close()
  assert [row["env_steps"] for row in fake.rows] == list(range(QUEUE_SIZE))


def test_wandb_run_of_an_agent_keeps_the_id_that_it_was_given(tmp_path, monkeypatch):
  fake = FakeWandB(monkeypatch)
  monkeypatch.setenv("WANDB_RUN_ID", "given")
  ids = ({}, {})
  WandB(mode="offline").open(run_info(tmp_path, ids=ids[0]))
  monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
  WandB(mode="offline").open(run_info(tmp_path, ids=ids[1]))
  alone, by_agent = (options for _, options in fake.opened)
  assert alone["project"] == "selftune" and alone["id"] == ids[0]["wandb"] != "given"
  assert by_agent["project"] is by_agent["id"] is None and ids[1] == {"wandb": "given"}


def test_wandb_is_offline_without_a_login(tmp_path, monkeypatch):
  monkeypatch.delenv("WANDB_MODE", raising=False)
  fake = FakeWandB(monkeypatch)
  for logged_in in (False, True):
    monkeypatch.setattr(wandb, "login", lambda logged_in=logged_in, **_: logged_in)
    WandB().open(run_info(tmp_path, ids={"wandb": "known"}))
  assert [(mode, s["resume"], s["id"]) for mode, s in fake.opened] == [
    *(("offline", "allow", "known"), ("online", "allow", "known")),
  ]


@pytest.mark.parametrize("leaves_rows", [True, False])
def test_curves_are_drawn_of_what_any_writer_has_left(config, tmp_path, monkeypatch, leaves_rows):
  """The rows decide, not the name of the writer."""
  opened = fakes.Recorder.open

  def leaving(self, run):
    if leaves_rows:
      files.write(tmp_path / "run" / "metrics.jsonl", "")
    return opened(self, run)

  monkeypatch.setattr(fakes.Recorder, "open", leaving)
  training.train(config, ["train.writers = (@recorder(),)"], tmp_path / "run")
  assert [name for name, _ in fakes.MEDIA] == ["curves"] * leaves_rows

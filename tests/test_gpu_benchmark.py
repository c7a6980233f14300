"""The benchmark on a GPU: what becomes of parts that fail, by parts that are put in their place."""

import json
import sys
from pathlib import Path

import pytest

ABOUT = {"device": "one", "jax": "0", "date": "d", "command": "c", "small": False}
FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch):
  monkeypatch.syspath_prepend(FOLDER)
  import gpu

  yield gpu
  for name in ("gpu", "gpu_parts"):
    del sys.modules[name]


def part(gpu, name, code, seconds=20.0, **fields):
  """A part that runs Python code, in which `cell(...)` tells a cell."""
  tell = "import json, sys, time; f = open(sys.argv[1], 'a')\n"
  tell += "cell = lambda **c: (f.write(json.dumps(c) + '\\n'), f.flush())\n"
  return gpu.Part(name, seconds, ("python", "-c", tell + code, "{cells}"), **fields)


def test_a_part_that_fails_leaves_the_numbers_of_the_others(gpu, tmp_path):
  half = "cell(envs=2, env_steps_per_second=10.0)\n"
  parts = [
    part(gpu, "good", half + "cell(envs=4, error='out of memory')"),
    part(gpu, "fails", half + "raise SystemExit('no such package')"),
    part(gpu, "hangs", half + "f.write('{'); f.flush(); time.sleep(60)", seconds=2.0),
    part(gpu, "killed", half + "import os; os.kill(os.getpid(), 9)"),
    part(gpu, "choices", "cell(envs=2, env_steps_per_second=15.0)", against="good"),
  ]
  gpu.measure(parts, tmp_path, 60, ABOUT, [])
  found = json.loads((tmp_path / "gpu.json").read_text())["parts"]
  ended = [
    "done",
    "failed with exit code 1",
    "stopped after 2 s",
    "failed with exit code -9",
    "done",
  ]
  assert [x["ended"] for x in found] == ended
  assert [len(x["cells"]) for x in found] == [2, 1, 1, 1, 1]
  assert found[1]["said"] == ["no such package"]
  assert found[4]["cells"][0]["ratio"] == 1.5
  page = (tmp_path / "gpu.md").read_text()
  assert "| 2 | 10 |  |\n| 4 |  | out of memory |" in page and "no such package" in page
  assert "| envs | env steps per second | ratio |\n| --- | --- | --- |\n| 2 | 15 | 1.5 |" in page


def test_parts_are_not_begun_when_the_time_is_over(gpu, tmp_path, capsys):
  parts = [part(gpu, "first", "time.sleep(60)", 3.0), part(gpu, "second", "cell(envs=1)")]
  gpu.measure(parts, tmp_path, 6.5, ABOUT, [])
  (found,) = json.loads((tmp_path / "gpu.json").read_text())["parts"]
  assert found["part"] == "first" and found["ended"] == "stopped after 3 s"
  assert "second: not begun, the time is over" in capsys.readouterr().out


def test_parts_that_are_run_again_leave_the_others(gpu, tmp_path):
  cells = lambda: [x["cells"] for x in gpu.measured_before(tmp_path, ABOUT)]
  assert cells() == []
  two = [part(gpu, name, f"cell(runs={k})") for k, name in enumerate(("a", "b"))]
  gpu.measure(two, tmp_path, 60, ABOUT, [])
  again = [part(gpu, "b", "cell(runs=2)")]
  gpu.measure(again, tmp_path, 60, ABOUT, gpu.measured_before(tmp_path, ABOUT))
  assert cells() == [[{"runs": 0}], [{"runs": 2}]]
  assert gpu.measured_before(tmp_path, ABOUT | {"device": "another"}) == []


def test_how_busy_the_gpu_was_while_a_cell_was_measured(gpu, tmp_path, monkeypatch):
  monitor = tmp_path / "nvidia-smi"
  monitor.write_text("#!/bin/sh\necho '[N/A]'\nwhile sleep 0.1; do echo 40; echo 60; done\n")
  monitor.chmod(0o755)
  monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
  code = "t = time.time(); time.sleep(1); cell(envs=1, window=(t, time.time()))"
  (cell,) = gpu.run(part(gpu, "busy", code), 20.0, tmp_path)["cells"]
  assert cell["envs"] == 1 and 45 < cell["gpu_percent"] < 55


def test_the_table_of_parts(gpu):
  for size in (gpu.FULL, gpu.SMALL):
    parts = gpu.parts(size)
    names = [x.name for x in parts]
    assert len(set(names)) == len(names)
    assert {x.against for x in parts} - {""} <= set(names)
    for x in parts:
      script = x.command[1] if x.command[1] != "-m" else x.command[-1]
      assert x.command[0] == "python" and (FOLDER.parent / script).is_file()

"""Figures: their grids, what is trained and what is not again, tables, drawings and claims."""

import csv
import subprocess
import sys
import time

import numpy as np
import pytest

from selftune.core import config, reproduce
from selftune.core import train as training
from selftune.core.api import Cell, Figure, Result, final, smooth
from selftune.core.api.errors import RunError, UserError
from selftune.core.commands import cli
from selftune.core.engine.loop import Progress
from selftune.plugins.papers.metatrace import Metatrace, atari, cells, drifts

FIGURES = {name.split("/")[1]: figure for name, figure in Metatrace().figures().items()}


RUNS = "run,seed,ac_lambda.alpha,episodes,env_steps,diverged\n0,5,0.5,3,9,False\n1,6,0.5,1,2,True\n"
EPISODES = """{"run": 0, "return": -3.0, "length": 3}
{"run": 1, "return": -9.0, "length": 9}
{"run": 0, "return": -2.0, "length": 2}
{"run": 0, "return": -1.0, "length": 1}
"""


@pytest.fixture
def trained(monkeypatch):
  """The calls of `training.train`, which only writes what a run leaves behind."""
  calls = []

  def train(name, bindings, workdir, resume):
    calls.append((name, bindings, workdir.name, resume))
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "config.gin").touch()
    (workdir / "runs.csv").write_text(RUNS)
    (workdir / "episodes.jsonl").write_text(EPISODES)
    (workdir / "metrics.jsonl").write_text('{"episodes": 4}\n')
    return Progress(done=workdir.name != "stopped" or resume)

  monkeypatch.setattr(reproduce.training, "train", train)
  return calls


@pytest.fixture
def figure(monkeypatch):
  grid = tuple(
    Cell(n, {"tuner": n}, "experiments/x", (f"a.b = {n!r}",)) for n in ("one", "stopped")
  )
  made = Figure(grid, ("quick = True",), lambda r: cells.page(1, 1)[0], lambda r: ["a claim"])
  figures = {**Metatrace().figures(), "metatrace/mine": made}
  monkeypatch.setattr(Metatrace, "figures", lambda self: figures)
  return made


def test_what_is_done_is_not_done_again(figure, trained, tmp_path, capsys):
  assert not reproduce.reproduce("metatrace/mine", tmp_path)
  assert [call[2:] for call in trained] == [("one", False), ("stopped", False)]
  assert "the same command goes on" in capsys.readouterr().err
  assert not list((tmp_path / "metatrace").glob("*.csv"))

  trained.clear()
  assert cli.main(["reproduce", "metatrace/mine", "--out", str(tmp_path)]) == 0
  assert trained == [("experiments/x", ("a.b = 'stopped'",), "stopped", True)]
  assert "a claim" in capsys.readouterr().out
  assert (tmp_path / "metatrace" / "mine.png").read_bytes().startswith(b"\x89PNG")
  with (tmp_path / "metatrace" / "mine.csv").open() as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == 12  # a diverged run has the worst return from then on
  assert rows[0] == {
    "tuner": "one",
    "seed": "5",
    "ac_lambda.alpha": "0.5",
    "run": "0",
    "episode": "0",
    "return": "-3.0",
    "length": "3",
  }
  assert [row["return"] for row in rows[3:6]] == ["-9.0"] * 3


def test_a_folder_that_cannot_be_written(figure, trained, tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(RunError, match=r"^cannot write .*file/metatrace/cells: Not a directory\.$"):
    reproduce.reproduce("metatrace/mine", tmp_path / "file")
  assert trained == []


def test_the_quick_form_is_kept_apart(figure, trained, tmp_path):
  reproduce.reproduce("metatrace/mine", tmp_path, quick=True)
  assert trained[0] == ("experiments/x", ("a.b = 'one'", "quick = True"), "one", False)
  assert (tmp_path / "metatrace" / "quick" / "cells" / "one").exists()


def test_unknown_figures():
  with pytest.raises(UserError, match=r"'metatrace/fig22'. Did you mean 'metatrace/fig2'"):
    reproduce.find("metatrace/fig22")


def test_smoothing():
  np.testing.assert_allclose(smooth(np.array([[1.0, 2, 3, 4, 5]]), 2), [[1, 1.5, 2.5, 3.5, 4.5]])
  np.testing.assert_allclose(smooth(np.array([1.0, 3.0]), 20), [1, 2])
  assert final(np.array([[0.0, 1.0, 2.0], [0.0, 3.0, 4.0]]), 2) == 2.5


@pytest.mark.parametrize("name", [f"fig{i}" for i in range(1, 10)])
@pytest.mark.parametrize("quick", [False, True])
def test_every_cell_loads(name, quick):
  figure = FIGURES[name]
  assert len({cell.name for cell in figure.cells}) == len(figure.cells)
  for cell in figure.cells[:: 5 if len(figure.cells) > 12 else 1]:
    root = config.load(cell.experiment, (*cell.bindings, *(figure.quick if quick else ()))).root
    tuner = root.agent.metaopt.tuner
    if "game" in cell.columns:
      assert (root.env.game, getattr(tuner, "mu", 0.001)) == (cell.columns["game"], 0.001)
      continue
    assert cell.columns["mu"] in ("", getattr(tuner, "mu", ""))
    assert getattr(tuner, "normalised", True) == (cell.columns["tuner"] != "scalar_raw")
    assert getattr(root.env, "drift", None) == cell.columns.get("drift")
    whole = {None: (500, 10), 6e-6: (1000, 20)}.get(cell.columns.get("drift"), (600, 20))
    assert (root.runtime.episodes, root.runtime.repeats) == ((30, 2) if quick else whole)


def results(name):
  """Made up: returns rise by as much as the power of mu, the more so with smaller alpha_0."""
  made = []
  for cell in FIGURES[name].cells:
    alphas = [2.0**-4, 2.0**-6] if "drift" not in cell.columns else [2.0**-10]
    mu = cell.columns["mu"] or 2.0**-6
    bonus = {"none": 0, "scalar": 1, "vector": 2, "mixed": 3}.get(cell.columns["tuner"], 4)
    level = [-200 - 5 * np.log2(a) + (0 if bonus else -40 * (a > 2**-5)) for a in alphas]
    rows = [{"ac_lambda.alpha": str(a), "seed": "0"} for a in alphas]
    returns = np.array([np.full(150, x + bonus - np.log2(mu)) for x in level])
    metrics = [
      {"episodes": 10, "beta/mean": -7.0}
      | {f"beta/{g}": -7.0 - 2.0 * ("noise" in g) * ("value" in g) for g in drifts.GROUPS}
    ]
    lengths = np.full(returns.shape, 9)
    made.append(Result(cell, rows, returns, lengths, metrics if bonus > 1 else [metrics[0] | {}]))
  return made


def test_claims_are_computed_from_the_table():
  found = "\n".join(FIGURES["fig2"].claims(results("fig2")))
  assert "no tuning: spread over alpha_0 25.0" in found
  assert "the spread shrinks for 6 of 6 mu" in found
  found = FIGURES["fig3"].claims(results("fig3"))
  assert "unnormalised scalar Metatrace: best mu 2^-19, useful 2^-19 to 2^-15" in found
  assert "normalised scalar Metatrace: best mu 2^-11, useful 2^-11 to 2^-7" in found
  found = FIGURES["fig4"].claims(results("fig4"))
  assert found[-1] == "at equal mu their mean returns differ by 0.0"
  found = FIGURES["fig6"].claims(results("fig6"))
  assert len(found) == 4 and all("mixed is best" in line for line in found)
  found = FIGURES["fig7"].claims(results("fig7"))
  assert any("mixed Metatrace" in line and "value +2.00, policy +0.00" in line for line in found)


@pytest.mark.parametrize("name, panels", [("fig1", 1), ("fig2", 6), ("fig6", 4), ("fig7", 6)])
def test_layout(name, panels):
  page = FIGURES[name].draw(results(name))
  assert len(page.axes) == panels and all(axes.lines for axes in page.axes)


def atari_results():
  """Of two alpha_0 in as many steps, the better one's episodes are four times as long."""
  rows = [{"ac_lambda.alpha": str(a), "seed": "0"} for a in atari.BEST[:2]]
  for cell in FIGURES["fig9"].cells:
    returns, lengths = np.full((2, 400), 50.0), np.full((2, 400), 250)
    returns[0], lengths[0] = [100.0] * 100 + [np.nan] * 300, [1000] * 100 + [0] * 300
    returns[1, 0] = 0.0
    yield Result(cell, rows, returns, lengths, [])


def test_atari_runs_of_unequal_numbers_of_episodes():
  results = list(atari_results())
  steps, returns = atari.curve(results[0], atari.BEST[0])
  assert steps[-1] == 100_000 and set(returns) == {100.0}
  lines = FIGURES["fig9"].claims(results)
  assert len(lines) == 10
  assert all("best 100.0 (alpha_0 = 2^-8), worst 50.0" in line for line in lines)
  untuned, tuned = FIGURES["fig9"].draw(results).axes[:2]
  assert [len(axes.lines) for axes in (untuned, tuned)] == [2, 3]
  assert tuned.lines[-1].get_label() == "no tuning, $\\alpha_0 = 2^{-8}$"
  np.testing.assert_array_equal(tuned.lines[-1].get_ydata(), 100.0)


def test_a_diverged_atari_run_ends_at_the_worst_return():
  cell = FIGURES["fig9"].cells[0]
  returns, lengths = np.array([[9.0] * 80 + [-5.0] * 120]), np.array([[10] * 80 + [0] * 120])
  result = Result(cell, [{"ac_lambda.alpha": "0.5"}], returns, lengths, [])
  steps, curve = atari.curve(result, 0.5)
  assert steps[-1] == 920 and curve[-1] == -5.0 and atari.final(result, 0.5) == -5.0


@pytest.mark.slow
def test_a_killed_figure_loses_at_most_its_unfinished_cell(tmp_path):
  """kill -9 while the second of seven cells trains; what is then made equals what never stopped."""
  command = [sys.executable, "-m", "selftune", "reproduce", "metatrace/fig2", "--quick"]
  command += ["--out", str(tmp_path)]
  folder = tmp_path / "metatrace" / "quick" / "cells"
  first, second = (folder / cell.name for cell in FIGURES["fig2"].cells[:2])
  with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
    while not ((second / "episodes.jsonl").exists() and (second / "episodes.jsonl").read_text()):
      assert process.poll() is None
      time.sleep(0.05)
    process.kill()
  assert [path.parent for path in folder.glob("*/done")] == [first]
  untouched = {path: path.stat().st_mtime_ns for path in first.rglob("*") if path.is_file()}

  subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
  assert {path: path.stat().st_mtime_ns for path in untouched} == untouched
  with (folder.parent / "fig2.csv").open() as file:
    rows = [row for row in csv.DictReader(file) if row["mu"] == str(2.0**-6)]
  whole = tmp_path / "whole"
  figure, cell = FIGURES["fig2"], FIGURES["fig2"].cells[1]
  assert training.train(cell.experiment, (*cell.bindings, *figure.quick), whole).done
  want = reproduce.read(cell, whole)
  assert len(rows) == want.returns.size == 8 * 30
  assert [float(row["return"]) for row in rows] == want.returns.ravel().tolist()

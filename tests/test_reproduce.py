"""Figures: their grids, what is trained and what is not again, tables, drawings and claims."""

import ast
import csv
import math
import subprocess
import sys
import time

import numpy as np
import pytest

from selftune.core import config, reproduce
from selftune.core import train as training
from selftune.core.api import Cell, Cost, Figure, Result, bound, episodes, final, smooth
from selftune.core.api.errors import RunError, UserError
from selftune.core.commands import cli
from selftune.core.engine.loop import Progress
from selftune.plugins.papers.metatrace import Metatrace, atari, cells, drifts
from selftune.plugins.papers.stac import Stac, scores, tuned
from selftune.plugins.papers.stac.atari import SCALE

STAC = {name.split("/")[1]: figure for name, figure in Stac().figures().items()}
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
  made = Figure(
    "shows nothing",
    Cost(4, 9, "no time", "CPU"),
    grid,
    bound(grid, ("quick = True",)),
    lambda r: cells.page(1, 1)[0],
    lambda r: ["a claim"],
  )
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
  grid = figure.quick if quick else figure.cells
  for cell in grid[:: 5 if len(grid) > 12 else 1]:
    root = config.load(cell.experiment, cell.bindings).root
    tuner, settings = root.agent.metaopt.tuner, root.runtime.settings
    if "game" in cell.columns:
      assert (root.env.game, getattr(tuner, "mu", 0.001)) == (cell.columns["game"], 0.001)
      continue
    assert cell.columns["mu"] == ""
    varied = {name.partition(".")[2] for name in settings}
    assert ("mu" in varied) == hasattr(tuner, "mu")
    assert getattr(tuner, "normalised", True) == (cell.columns["tuner"] != "scalar_raw")
    assert getattr(root.env, "drift", None) == cell.columns.get("drift")
    whole = (500, 10) if "drift" not in cell.columns else (5000, 20)
    assert (root.runtime.episodes, root.runtime.repeats) == ((30, 2) if quick else whole)


def results(name):
  """Made up: returns rise by as much as the power of mu, the more so with smaller alpha_0."""
  made = []
  for cell in FIGURES[name].cells:
    alphas = [2.0**-4, 2.0**-6] if "drift" not in cell.columns else [2.0**-10]
    bonus = {"none": 0, "scalar": 1, "vector": 2, "mixed": 3}.get(cell.columns["tuner"], 4)
    level = [-200 - 5 * np.log2(a) + (0 if bonus else -40 * (a > 2**-5)) for a in alphas]
    (binding,) = (b for b in cell.bindings if b.startswith("runs.settings = "))
    settings = ast.literal_eval(binding.partition(" = ")[2])
    ((name, mus),) = [(n, x) for n, x in settings.items() if n.endswith(".mu")] or [("", (2**-6,))]
    grid = [(mu, a, x) for mu in mus for a, x in zip(alphas, level, strict=True)]
    rows = [
      {"ac_lambda.alpha": str(a), "seed": "0"} | ({name: str(mu)} if name else {})
      for mu, a, _ in grid
    ]
    returns = np.array([np.full(150, x + bonus - np.log2(mu)) for mu, _, x in grid])
    metrics = {"episodes": np.array([10.0]), "beta/mean": np.array([-7.0])} | {
      f"beta/{g}": np.array([-7.0 - 2.0 * ("noise" in g) * ("value" in g)]) for g in drifts.GROUPS
    }
    made.append(Result(cell, rows, returns, np.full(returns.shape, 9), metrics))
  return made


def test_claims_are_computed_from_the_table():
  found = "\n".join(FIGURES["fig2"].claims(results("fig2")))
  assert "no tuning: spread over alpha_0 25.0" in found
  assert "the spread shrinks for 6 of the 6 mu that the paper shows" in found
  assert "above 2^-6, where the mean return is -168.0: -169.0 at 2^-5" in found
  found = FIGURES["fig3"].claims(results("fig3"))
  useful = ["-152.0; useful 2^-19 to 2^-15, 5 of 9 mu", "-163.0; useful 2^-11 to 2^-7, 5 of 9 mu"]
  assert f"unnormalised scalar Metatrace: best mu 2^-19, mean return {useful[0]}" in found
  assert f"normalised scalar Metatrace: best mu 2^-11, mean return {useful[1]}" in found
  found = FIGURES["fig4"].claims(results("fig4"))
  assert found[-1] == "at equal mu their mean returns differ by 0.0"
  found = FIGURES["fig6"].claims(results("fig6"))
  everywhere = "at 4 of 4 drifts (4e-06, 6e-06, 8e-06, 1e-05)"
  assert f"mixed ends as the best: {everywhere}" in found
  assert f"vector ends above scalar: {everywhere}" in found
  assert "scalar is ahead of vector early: at 0 of 4 drifts (none)" in found
  found = FIGURES["fig7"].claims(results("fig7"))
  of_mixed = "last 100 episodes -141.0 to -136.0 over mu, 6 of 6 within 10 of the best"
  assert f"mixed Metatrace: {of_mixed}" in found
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
    yield Result(cell, rows, returns, lengths, {})


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
  result = Result(cell, [{"ac_lambda.alpha": "0.5"}], returns, lengths, {})
  steps, curve = atari.curve(result, 0.5)
  assert steps[-1] == 920 and curve[-1] == -5.0 and atari.final(result, 0.5) == -5.0


@pytest.mark.parametrize("paper", [Metatrace(), Stac()], ids=["metatrace", "stac"])
def test_a_name_of_a_cell_means_one_training(paper):
  """Figures share the folders of cells by name, those of the quick form apart from the others."""
  for grids in (
    [f.cells for f in paper.figures().values()],
    [f.quick for f in paper.figures().values()],
  ):
    found = {}
    for cell in (cell for grid in grids for cell in grid):
      trained = cell.experiment, cell.bindings
      assert found.setdefault(cell.name, trained) == trained


@pytest.mark.parametrize("name", [*FIGURES, *STAC])
def test_the_cost_that_is_listed_is_that_of_the_cells(name):
  figure = {**FIGURES, **STAC}[name]
  # Cells of one grid of STAC are hundreds, and alike.
  cells = figure.cells if name in FIGURES else (figure.cells[0],) * len(figure.cells)
  sizes = {
    cell.name: size(cell, figure.cost.env_steps) for cell in {c.name: c for c in cells}.values()
  }
  assert figure.cost.runs == sum(sizes[cell.name] for cell in cells)


def size(cell, env_steps):
  """The runs of a cell, each of so many steps."""
  root = config.load(cell.experiment, cell.bindings).root
  assert root.total_env_steps == env_steps
  settings = getattr(root.runtime, "settings", {})
  return math.prod(map(len, settings.values())) * getattr(root.runtime, "repeats", 1)


def test_figures_are_listed(capsys):
  assert cli.main(["reproduce"]) == 0
  lines = capsys.readouterr().out.splitlines()
  at = lines.index("stac/fig3c: Real-World RL challenge: learning curves of the four agents")
  assert lines[at + 1].split("; ")[:2] == ["    144 runs of up to 30,000,000 env steps", "CPU"]
  assert [line.split(":")[0] for line in lines if line.startswith(("stac/", "metatrace/"))] == [
    *Metatrace().figures(),
    *Stac().figures(),
  ]


@pytest.mark.parametrize("name", STAC)
def test_cells_of_stac_are_what_they_are_called(name):
  figure = STAC[name]
  for cell in (figure.cells[0], figure.cells[-1], *figure.quick):
    root = config.load(cell.experiment, cell.bindings).root
    assert root.seed == cell.columns["seed"]
    env, task = root.env, cell.columns["task"]
    assert task in (
      getattr(env, "game", ""),
      *(
        f"{env.domain} {getattr(env, other)}" for other in ("task", "level") if hasattr(env, other)
      ),
    )
  assert len({(cell.columns["agent"], cell.columns["task"]) for cell in figure.cells}) * (
    len({cell.columns["seed"] for cell in figure.cells})
  ) == len(figure.cells)


def single(cell, last, curve=(), **metrics):
  """What a single run left behind: 150 episodes, the last 100 of which returned `last`."""
  returns = np.array([[0.0] * 50 + [last] * 100])
  logged = {"env_steps": np.arange(len(curve)) * 1000.0, "episode_return": np.array(curve, float)}
  return Result(cell, [{}], returns, np.full(returns.shape, 9), {**logged, **metrics})


def test_scores_are_normalised_and_the_median_over_games_of_means_over_seeds():
  """By data/atari57.csv, breakout: random 1.7, human 30.5."""
  cells = [c for c in STAC["fig2a"].cells if c.columns["task"] in ("breakout", "pong", "boxing")]
  # breakout at 0, 50 and 100%: 50; pong at human level, 14.6; boxing at random play, 0.1
  last = {"breakout": (1.7, 16.1, 30.5), "pong": (14.6,) * 3, "boxing": (0.1,) * 3}
  results = [single(c, last[c.columns["task"]][c.columns["seed"]]) for c in cells]
  figure = STAC["fig2a"]
  found = figure.claims(results)
  assert (
    "STACX: 50.0 (the paper: 364), median human-normalised score in %, 3 tasks, 3 seeds" in found
  )
  assert "STAC: 50.0, median human-normalised score in %, 3 tasks, 3 seeds" in found
  rows = figure.table(results)
  at = cells.index(next(c for c in cells if c.name == "stac_breakout_seed1"))
  assert rows[at] | {"score": round(rows[at]["score"], 9)} == {
    "agent": "stac",
    "task": "breakout",
    "seed": 1,
    "episodes": 150,
    "return": pytest.approx(16.1),
    "score": 50.0,
  }


def test_learning_curves_of_single_runs():
  """On the steps that all runs have a score at; NaN is none."""
  quick = {c.columns["agent"]: c for c in STAC["fig2a"].quick}
  runs = [
    single(quick["stac"], 0, [np.nan, 1.7, 16.1, 30.5]),
    single(quick["stac"], 0, [1.7, 1.7, 1.7]),
  ]
  steps, curve = scores.curve(SCALE, {"breakout": runs})
  assert (steps[0], steps[-1], len(steps)) == (1000, 2000, scores.POINTS)
  np.testing.assert_allclose(curve[[0, -1]], [0, 25], atol=1e-9)
  page = STAC["fig2a"].draw([single(c, 30.5, [1.7, 16.1]) for c in STAC["fig2a"].quick])
  left, right = page.axes
  assert [line.get_label() for line in left.lines] == [
    "STACX",
    "STAC",
    "IMPALA, auxiliary tasks",
    "IMPALA",
  ]
  np.testing.assert_allclose([bar.get_width() for bar in right.patches], 100)


def test_runs_without_a_finished_episode_have_no_score():
  quick = STAC["fig3a"].quick
  none = Result(
    quick[0], [{}], np.full((1, 1), np.nan), np.zeros((1, 1), int), {"env_steps": np.ones(2)}
  )
  results = [none, *(single(c, 7.0, [7.0, 7.0]) for c in quick[1:])]
  found = STAC["fig3a"].claims(results)
  assert "STAC: nan, mean return, 1 task, 1 seed" in found
  assert found[-1] == "here, from the best: STACX; IMPALA, auxiliary tasks; IMPALA"
  assert len(STAC["fig3a"].draw(results).axes[0].lines[0].get_xdata()) == 0


def test_tuned_values_are_drawn_by_head():
  heads = {
    f"tuned/leaky_vtrace.{n}/{h}": np.array([0.99, 0.9 + h / 100])
    for n in ("alpha_rho", "alpha_c")
    for h in range(3)
  }
  result = single(STAC["fig5b"].cells[0], 0, [1.0, 2.0], **heads)
  page = STAC["fig5b"].draw([result])
  assert [axes.get_title() for axes in page.axes[:3]] == [
    "leaky_vtrace.alpha_c",
    "leaky_vtrace.alpha_rho",
    "return",
  ]
  assert [line.get_ydata()[-1] for line in page.axes[0].lines] == [0.9, 0.91, 0.92]
  found = STAC["fig5b"].claims([result])
  assert found[2] == "leaky_vtrace.alpha_rho: 0.9900 -> 0.9000, 0.9900 -> 0.9100, 0.9900 -> 0.9200"
  assert tuned.table([result])[1]["tuned/leaky_vtrace.alpha_c/2"] == 0.92


def test_how_often_the_theorem_holds_is_counted():
  results = [single(c, 0.0) for c in STAC["alpha"].quick]
  at = [c.columns["agent"] for c in STAC["alpha"].quick].index("stacx_split_alpha")
  rho, c = np.array([0.5, 0.9, 0.995, 1.0]), np.array([0.6, 0.9, 1.0, 0.5])
  for name, values in (("alpha_rho", rho), ("alpha_c", c)):
    results[at].metrics[f"tuned/leaky_vtrace.{name}/0"] = values
  assert STAC["alpha"].claims(results)[-1] == (
    "here: α_ρ >= α_c 50.0% of the time, α_ρ >= 0.99 α_c 75.0%"
  )


def test_a_single_run_is_read(tmp_path):
  """It has no runs.csv and its episodes no number of a run; its rows of metrics become columns."""
  (tmp_path / "episodes.jsonl").write_text(
    '{"env_steps": 4, "return": 1.5, "length": 4}\n{"env_steps": 9, "return": -1.0, "length": 5}\n'
  )
  (tmp_path / "metrics.jsonl").write_text(
    '{"env_steps": 4, "tuned/a.b/0": 0.5}\n'
    '{"env_steps": 9, "tuned/a.b/0": null, "episode_return": 2.0}\n'
  )
  cell = Cell("one", {"agent": "stac", "seed": 3}, "experiments/x", ())
  result = reproduce.read(cell, tmp_path)
  assert result.settings == [{}]
  assert result.returns.tolist() == [[1.5, -1.0]] and result.lengths.tolist() == [[4, 5]]
  np.testing.assert_array_equal(result.metrics["tuned/a.b/0"], [0.5, np.nan])
  np.testing.assert_array_equal(result.metrics["episode_return"], [np.nan, 2.0])
  reproduce.write_table(tmp_path / "x.csv", episodes([result]))
  assert (tmp_path / "x.csv").read_text().splitlines() == [
    "agent,seed,run,episode,return,length",
    "stac,3,0,0,1.5,4",
    "stac,3,0,1,-1.0,5",
  ]


def test_of_many_rows_of_metrics_some_are_kept_and_the_last_one(tmp_path):
  rows = "".join(f'{{"env_steps": {i}}}\n' for i in range(5 * reproduce.ROWS))
  (tmp_path / "m.jsonl").write_text(rows)
  kept = reproduce.columns(tmp_path / "m.jsonl")["env_steps"]
  assert len(kept) == reproduce.ROWS and (kept[0], kept[-1]) == (0, 5 * reproduce.ROWS - 1)
  (tmp_path / "m.jsonl").write_text("")
  assert reproduce.columns(tmp_path / "m.jsonl") == {}


@pytest.mark.long
@pytest.mark.slow
def test_the_quick_form_of_a_figure_of_single_runs_runs(tmp_path):
  assert reproduce.reproduce("stac/fig3a", tmp_path, quick=True)
  folder = tmp_path / "stac" / "quick"
  with (folder / "fig3a.csv").open() as file:
    rows = list(csv.DictReader(file))
  assert [row["agent"] for row in rows] == ["stac", "stacx", "impala_aux", "impala"]
  assert all(int(row["episodes"]) >= 1 and float(row["score"]) >= 0 for row in rows)
  assert (folder / "fig3a.png").stat().st_size > 10_000


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
    rows = [row for row in csv.DictReader(file) if row["tuner"] == "scalar"]
  whole = tmp_path / "whole"
  cell = FIGURES["fig2"].quick[1]
  assert training.train(cell.experiment, cell.bindings, whole).done
  want = reproduce.read(cell, whole)
  assert len(rows) == want.returns.size == 9 * 8 * 30
  assert [float(row["return"]) for row in rows] == want.returns.ravel().tolist()

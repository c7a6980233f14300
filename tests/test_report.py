"""Comparing agents: which runs belong together, and numbers that were worked out by hand."""

import json
import re
import sys

import fakes
import numpy as np
import pytest

from selftune.core import config
from selftune.core.api import jsonl
from selftune.core.api.errors import UserError
from selftune.core.commands.cli import main
from selftune.core.reports import comparison, statistics
from selftune.plugins.envs.envpool import EnvPool

ATARI = """
include 'experiments/atari_impala.gin'
train.total_env_steps = 100
"""


def write_run(path, text=ATARI, curve=((10, 0.0), (100, 1.0)), name="metrics", **bindings):
  bound = [f"{key.replace('__', '.')} = {value!r}" for key, value in bindings.items()]
  path.mkdir(parents=True)
  (path / "config.gin").write_text(config.load(_file(path, text), bound).text)
  key = {"metrics": "episode_return", "eval": "mean"}[name]
  rows = [{"env_steps": 0}, *({"env_steps": steps, key: score} for steps, score in curve)]
  (path / f"{name}.jsonl").write_text("".join(map(jsonl.encode, rows)))
  return path


def _file(path, text):
  file = path / "given.gin"
  file.write_text(text)
  return file


def two_agents(tmp_path):
  """Two games, human-normalised to 0.1, 0.2, ...: breakout is 1.7 + 28.8 x, pong -20.7 + 35.3 x."""
  runs = []
  for agent, cost, offset in (("a", 0.01, 0.0), ("b", 0.02, 0.4)):
    for game, low, scale in (("pong", -20.7, 35.3), ("breakout", 1.7, 28.8)):
      for seed in (1, 0):
        score = low + scale * (offset + 0.1 * (2 * seed + (game == "pong")))
        bindings = {"atari__game": game, "train__seed": seed, "entropy__cost": cost}
        path = tmp_path / f"{agent}_{game}_seed{seed}"
        runs.append(write_run(path, curve=[(10, low), (100, score)], **bindings))
  return runs


def test_runs_become_matrices_of_normalised_scores(tmp_path):
  it = comparison.compare(two_agents(tmp_path))
  assert list(it.scores) == ["a", "b"] and it.tasks == ["breakout", "pong"]
  np.testing.assert_allclose(it.scores["a"], [[0.0, 0.1], [0.2, 0.3]], atol=1e-9)
  np.testing.assert_allclose(it.scores["b"], [[0.4, 0.5], [0.6, 0.7]])
  assert it.normalised and (it.env_steps[0], it.env_steps[-1]) == (10, 100)
  np.testing.assert_allclose(it.curves["b"][..., 0], 0, atol=1e-9)
  assert it.differences == {"entropy.cost": {"a": "0.01", "b": "0.02"}}
  assert [run.seed for run in it.runs["a"]] == [1, 0, 1, 0]


def test_numbers_written_otherwise_are_of_one_agent(tmp_path):
  runs = [
    write_run(tmp_path / f"a_seed{seed}", train__seed=seed, policy_gradient__cost=cost)
    for seed, cost in enumerate((1, 1.0))
  ]
  assert list(comparison.compare(runs).scores) == ["a"]


def test_scores_at_an_earlier_point(tmp_path):
  it = comparison.compare(two_agents(tmp_path), at=55)
  np.testing.assert_allclose(it.scores["b"], [[0.2, 0.25], [0.3, 0.35]])


def test_scores_of_evaluations(tmp_path):
  run = write_run(tmp_path / "run", name="eval", curve=[(0, 1.7), (100, 30.5)])
  it = comparison.compare([run], evaluations=True)
  np.testing.assert_allclose(it.scores["run"], [[1.0]])
  with pytest.raises(UserError, match=r"metrics.jsonl holds no score yet: let it go on"):
    comparison.compare([run])


def refused(runs, match, **arguments):
  with pytest.raises(UserError, match=match):
    comparison.compare(runs, **arguments)


def test_what_does_not_fit_together_is_named(tmp_path):
  a_pong1, a_pong0, a_out1, a_out0, *_ = runs = two_agents(tmp_path)
  refused([tmp_path / "absent"], "absent holds no run")
  refused(runs[:-1], "b has 1 of breakout, 2 of pong: every agent needs as many runs")
  refused([a_pong1, a_out1, a_out0], "a has 2 of breakout, 1 of pong")
  refused([a_pong0, a_pong0], "of one configuration and seed")
  late = write_run(tmp_path / "late", curve=[(10, 0.0), (60, 1.0)])
  refused([late], r"late has scores up to 60 of 100 env steps: resume it.*--at 60")
  assert comparison.compare([late], at=60).env_steps[-1] == 60
  refused([late], "--at 5: the first score that every run has is at 10", at=5)
  other = write_run(tmp_path / "long", train__total_env_steps=200)
  refused([a_pong0, other], r"of different lengths.*100 env steps.*200 env steps.*--at 100")
  refused([write_run(tmp_path / "none", curve=[])], "holds no score yet")


def test_raw_returns_are_of_one_task(tmp_path, monkeypatch):
  fakes.register(monkeypatch)
  text = fakes.CONFIG.replace("train.env = @counting()", "train.env = @envpool()")
  text = text.replace("train.total_env_steps = 120", "train.total_env_steps = 100")
  catch = write_run(tmp_path / "catch", text)
  it = comparison.compare([catch])
  assert it.tasks == ["envpool Catch-v0"] and not it.normalised
  np.testing.assert_array_equal(it.scores["catch"], [[1.0]])
  pole = write_run(tmp_path / "pole", text, envpool__task="CartPole-v1")
  refused([catch, pole], "those of envpool have no reference scores")
  assert EnvPool().task == "Catch-v0"
  runs = tmp_path / "runs"
  write_run(runs, "include 'experiments/metatrace_mountain_car.gin'")
  refused([runs], r"holds the runs of @runs\(\) as one")


def test_agents_of_one_name_are_told_apart(tmp_path):
  runs = [write_run(tmp_path / f"x_seed{i}", entropy__cost=0.1 * (i + 1)) for i in range(3)]
  assert list(comparison.compare(runs).scores) == ["x", "x 2", "x 3"]


def test_statistics_are_those_worked_out_by_hand():
  # Task means 0.3 and 0.9. The middle half of 0.1 0.2 0.6 | 0.7 0.8 1.2 (a quarter of 6 is 1.5, of
  # which 1 is cut at each end): (0.2 + 0.6 + 0.7 + 0.8) / 4. Below 1: 0.9 0.8 0.4 0.3 0.2 0.
  a = np.array([[0.1, 0.7], [0.2, 0.8], [0.6, 1.2]])
  b = np.array([[0.2, 0.7], [0.2, 0.7], [0.2, 0.7]])
  curves = {"a": np.stack([0 * a, a], -1), "b": np.stack([0 * b, b], -1)}
  it = statistics.statistics({"a": a, "b": b}, curves, resamples=20)
  np.testing.assert_allclose(it.aggregates.point["a"], [0.6, 0.575, 0.6, 2.6 / 6])
  np.testing.assert_allclose(it.aggregates.point["b"], [0.45, 0.45, 0.45, 0.55])
  np.testing.assert_allclose(it.aggregates.interval["b"], [[0.45, 0.45, 0.45, 0.55]] * 2)
  low, high = it.aggregates.interval["a"]
  assert (low < it.aggregates.point["a"]).all() and (it.aggregates.point["a"] < high).all()
  assert (low[2], high[2]) != (0.6, 0.6) and low[2] >= 0.4 and high[2] <= 0.9
  assert (it.thresholds[0], it.thresholds[-1]) == pytest.approx((0.045, 1.2))
  assert it.profiles.point["a"][0] == 1
  np.testing.assert_allclose(
    np.interp([0.3, 0.75, 1.2], it.thresholds, it.profiles.point["a"]), [4 / 6, 2 / 6, 0]
  )
  # First task: of 9 pairs 3 above, 3 equal, 3 below: 1/2. Second: 6 above, 3 equal: 7.5/9.
  np.testing.assert_allclose(it.improvement.point["a > b"], [(4.5 / 9 + 7.5 / 9) / 2])
  np.testing.assert_allclose(it.efficiency.point["a"], [0, 0.575])
  again = statistics.statistics({"a": a, "b": b}, curves, resamples=20)
  np.testing.assert_array_equal(it.profiles.interval["a"], again.profiles.interval["a"])


def test_the_page_holds_everything(tmp_path, capsys):
  runs = [str(path) for path in two_agents(tmp_path)]
  out = tmp_path / "new" / "report"
  assert main(["report", *runs, "--out", str(out), "--resamples", "5"]) == 0
  text = capsys.readouterr().out.splitlines()
  assert text[0].split() == ["agent", "runs", "median", "IQM", "mean", "optimality", "gap"]
  assert text[1].split()[:3] == ["a", "2", "0.15"] and text[-1] == str(out / "index.html")
  images = {"aggregates.png", "profiles.png", "efficiency.png", "improvement.png"}
  assert {path.name for path in out.iterdir()} == images | {"index.html", "report.json"}
  page = (out / "index.html").read_text()
  assert page.count("data:image/png;base64,") == 4
  assert not re.search(r'(src|href)="(?!data:)', page)  # nothing is loaded from elsewhere
  for word in ("entropy.cost", "0.02", runs[0], "pong", "optimality gap"):
    assert word in page
  numbers = json.loads((out / "report.json").read_text())
  assert numbers["aggregates"]["b"]["point"] == pytest.approx([0.55, 0.55, 0.55, 0.45])


def test_odd_names_and_rows_are_reported_as_any(tmp_path, capsys):
  name = {"a": "<i>&$\\frac$", "b": "_" + "b" * 150}
  runs = []
  for path in two_agents(tmp_path):
    agent, rest = path.name[0], path.name[1:]
    runs.append(str(path.rename(path.with_name(name[agent] + rest))))
    with (path.parent / (name[agent] + rest) / "metrics.jsonl").open("a") as file:
      file.write('null\n{"episode_return": 9}\n{"env_steps": 200, "episode_return": NaN}\n{"env')
  assert main(["report", *runs, "--out", str(tmp_path / "out"), "--resamples", "5"]) == 0
  told = capsys.readouterr()
  assert told.out.splitlines()[1].split()[2] == "0.15" and told.err == ""
  page = (tmp_path / "out" / "index.html").read_text()
  assert "<i>" not in page and "&lt;i&gt;&amp;$\\frac$" in page and name["b"] in page


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    (["--at", "0"], "--at 0 must be at least 1"),
    (["--resamples", "0"], "--resamples 0 must be at least 1"),
    (["--out", "/proc/cpuinfo/x"], "--out /proc/cpuinfo/x: cannot write to /proc/cpuinfo; choose"),
  ],
)
def test_mistakes_in_the_arguments(arguments, words, tmp_path, capsys):
  assert main(["report", str(tmp_path), *arguments]) == 2
  error = capsys.readouterr().err
  assert words in error and error.count("\n") == 1


def test_a_missing_package_is_named_with_its_pip_line(monkeypatch):
  monkeypatch.setitem(sys.modules, "rliable", None)
  with pytest.raises(UserError, match=r"pip install 'selftune\[report\]'"):
    statistics.statistics({}, {}, 1)

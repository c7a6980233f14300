"""The plot: which lines and panels there are, what they show, and what is refused."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from selftune.core.api import jsonl
from selftune.core.api.errors import RunError, UserError
from selftune.core.record import drawing, labels, metrics, plotting


def write_rows(workdir, rows):
  workdir.mkdir(parents=True)
  (workdir / "metrics.jsonl").write_text("".join(map(jsonl.encode, rows)))
  return workdir


def stacx_rows(offset=0.0):
  names = (
    "vtrace.gamma",
    "vtrace.lambda_",
    "vtrace.alpha",
    "value.cost",
    "pg.cost",
    "entropy.cost",
  )
  for step in (100, 200, 300):
    etas = {f"tuned/{n}/{h}": 0.9 - h / 10 - step / 1e4 for n in names for h in range(3)}
    row = {"env_steps": step, "metagrad_norm": 0.1 * step, **etas}
    yield row if step == 100 else {**row, "episode_return": step + offset}  # none finished by 100


def test_stacx_has_a_panel_a_tunable_and_a_line_a_head(tmp_path):
  run = write_rows(tmp_path / "run", stacx_rows())
  out = plotting.plot([run], tmp_path / "plot.png")
  assert imread(out).shape[:2] == (round((3.6 + 2.3 * 3) * 120), 12 * 120)
  top, *panels = plotting.figure([run]).axes
  assert [p.get_title(loc="left") for p in panels] == [
    *("entropy.cost", "pg.cost", "value.cost", "vtrace.alpha", "vtrace.gamma", "vtrace.lambda_"),
    "metagrad_norm",
  ]
  assert [len(p.get_lines()) for p in panels] == [3] * 6 + [1]
  np.testing.assert_array_equal(top.get_lines()[0].get_xydata(), [[200, 200], [300, 300]])
  head_2 = panels[0].get_lines()[2]
  np.testing.assert_allclose(head_2.get_xydata(), [[100, 0.69], [200, 0.68], [300, 0.67]])


def test_a_run_before_tuned_values_were_named_so_is_drawn_alike(tmp_path):
  """Then `eta/` was the value and `eta_raw/` eta; a run may be resumed since."""
  old = [
    {"env_steps": 1, "eta/a.b/0": 0.9, "eta_raw/a.b/0": 2.2, "u": 3.0},
    {"env_steps": 2, "tuned/a.b/0": 0.8, "eta/a.b/0": 1.4, "u": 4.0},
  ]
  run = write_rows(tmp_path / "run", old)
  assert list(metrics.read(run / "metrics.jsonl")) == [
    {"env_steps": 1, "tuned/a.b/0": 0.9, "eta/a.b/0": 2.2, "u": 3.0},
    old[1],
  ]
  _, panel, _ = plotting.figure([run]).axes
  assert panel.get_title(loc="left") == "a.b"
  np.testing.assert_array_equal(panel.get_lines()[0].get_xydata(), [[1, 0.9], [2, 0.8]])


def test_seeds_become_one_line_in_a_band(tmp_path):
  runs = [write_rows(tmp_path / f"a_seed{s}", stacx_rows(offset=10 * s)) for s in (0, 1)]
  runs.append(write_rows(tmp_path / "b", [{"env_steps": 5, "episode_return": 1.0}]))
  top = plotting.figure(runs).axes[0]
  mean, _ = top.get_lines()
  assert [text.get_text() for text in top.get_legend().get_texts()] == ["a (2 seeds)", "b"]
  np.testing.assert_allclose(mean.get_xydata()[[0, -1]], [[200, 205], [300, 305]])
  (band,) = top.collections
  limits = band.get_datalim(top.transData)
  np.testing.assert_allclose((limits.ymin, limits.ymax), (200, 310))


def test_step_sizes_are_shaded_by_how_they_are_distributed(tmp_path):
  rows = [{"env_steps": step, "beta/mean": -6.0, "u": 0.5} for step in (10, 20, 30)]
  runs = [write_rows(tmp_path / name, rows) for name in ("one", "other")]
  of_bins = {"name": "beta", "counts": [1, 3], "edges": [-8.0, -6.0, -4.0]}
  for run in runs:
    lines = [{"env_steps": step, **of_bins} for step in (10, 20, 30)]
    lines.append({**lines[-1], "name": "another", "edges": [0.0, 1.0, 2.0]})
    (run / "histograms.jsonl").write_text("".join(map(jsonl.encode, lines)))
  _, beta, u = plotting.figure(runs[:1]).axes
  assert [axes.get_title(loc="left") for axes in (beta, u)] == ["beta/mean", "u"]
  (shades,) = beta.collections
  found = shades.get_array()
  assert found.shape == (64, 3)
  np.testing.assert_allclose(found[[16, 48]], np.sqrt([3 * [0.25], 3 * [0.75]]))
  assert found.astype(bool).sum() == 6 and not u.collections
  plotting.plot(runs[:1], tmp_path / "plot.png")  # and Matplotlib can draw it
  assert not plotting.figure(runs).axes[1].collections  # of one run only


def test_names_say_what_is_drawn_and_values_on_which_scale(tmp_path):
  """No name of a plugin is known: other parts than `tuned` and all of core's own are details."""
  row = {"episodes": 3, "queue_wait": 0.1, "loss/total/0": 1.0, "x/mean/least": 0.0, "x/mean": -1.0}
  grows = [0.0, *(10.0 ** (k / 5) for k in range(16))]  # three decades, and a first zero
  rows = [
    {"env_steps": k, **row, "tuned/a.b/0": y, "wide": y, "narrow": 1 + y / 1e3, "signed": y - 1}
    for k, y in enumerate(grows)
  ]
  runs = [write_rows(tmp_path / f"r_seed{s}", rows) for s in (0, 1)]
  _, *panels = plotting.figure(runs[:1]).axes
  assert [(axes.get_title(loc="left"), axes.get_yscale()) for axes in panels] == [
    ("a.b", "log"),
    ("narrow", "linear"),
    ("signed", "linear"),
    ("wide", "log"),
    ("x/mean", "linear"),
  ]
  plotting.plot(runs, tmp_path / "plot.png")
  lines = [{"env_steps": k, "name": "x", "counts": [1, 1], "edges": [0, 1, 2]} for k in (1, 2)]
  (runs[0] / "histograms.jsonl").write_text("".join(map(jsonl.encode, lines)))
  _, *panels = plotting.figure(runs[:1]).axes
  assert [len(axes.collections) for axes in panels] == [0, 0, 0, 0, 1]


def test_curves_average_where_all_runs_have_been():
  runs = [
    [{"env_steps": 0, "x": 0.0}, {"env_steps": 10, "x": 10.0}],
    [{"env_steps": 2, "x": 4.0}, {"env_steps": 4, "x": None}, {"env_steps": 6, "x": 8.0}],
  ]
  steps, mean, deviation = plotting.curve(runs, "x")
  np.testing.assert_allclose((steps[0], steps[-1]), (2, 6))
  np.testing.assert_allclose((mean[0], mean[-1]), (3, 7))
  np.testing.assert_allclose((deviation[0], deviation[-1]), (1, 1))
  assert all(part.size == 0 for part in plotting.curve(runs, "absent"))
  apart = [*runs, [{"env_steps": 30, "x": 1.0}, {"env_steps": 40, "x": 1.0}]]
  assert all(part.size == 0 for part in plotting.curve(apart, "x"))


@pytest.mark.parametrize(
  ("names", "wanted"),
  [
    (["r/x_seed0", "r/x_seed12", "r/x"], ["x", "x", "x"]),
    (["r/x_seed0", "r/y"], ["x_seed0", "y"]),  # alone: the whole name
    (["r/a/seed0", "r/a/seed1"], ["a", "a"]),
    (["r/stacx_p2", "r/stacx_p8"], ["stacx_p2", "stacx_p8"]),  # variants are no seeds
    (["r/a/x_seed0", "r/b/x_seed0"], ["a/x", "b/x"]),  # a seed is there once
    (["a/x_seed0", "b/x_seed0", "a/x_seed1", "y"], ["a/x", "b/x", "a/x", "y"]),
    (["a/x_seed0", "b/x_seed1"], ["x", "x"]),
    (["r/x", "r/b/x"], ["x", "b/x"]),
    (["a/x/seed0", "b/x/seed0", "b/x/seed1"], ["a/x", "b/x", "b/x"]),
    (["a/x_seed0", "a/x_seed0"], ["x", "x"]),
  ],
)
def test_labels(names, wanted):
  assert labels.labels([Path("/run")]) == ["run"]
  assert labels.labels([Path(name) for name in names]) == wanted


def test_runs_of_a_setting_are_one_line_that_is_named_by_it(tmp_path):
  runs = [write_rows(tmp_path / "sizes" / "runs" / f"{k:03}", stacx_rows()) for k in range(3)]
  (tmp_path / "sizes" / "runs.csv").write_text(
    "run,seed,ac.alpha,m.mu,episodes,env_steps,diverged\n"
    "0,0,0.125,0.0078125,9,99,False\n1,1,0.125,0.0078125,9,99,False\n2,0,0.5,0.01,9,99,True\n"
  )
  first, other = "sizes ac.alpha = 0.125, m.mu = 0.0078125", "sizes ac.alpha = 0.5, m.mu = 0.01"
  assert labels.labels(runs) == [first, first, other]
  assert labels.labels([runs[0].parent.parent]) == ["sizes"]
  points = [
    {"gamma": 0.123456, "net": "@mlp()", "train.seed": 0},
    {"gamma": 0.5, "net": "@mlp()", "train.seed": 0},
    {"gamma": 0.5, "net": "@mlp()", "train.seed": 1},
  ]
  (tmp_path / "sizes" / "points.jsonl").write_text("".join(map(jsonl.encode, points)))
  assert labels.labels(runs[1:]) == ["sizes gamma = 0.5, net = @mlp()"] * 2


def test_settings_that_differ_in_late_digits_are_lines_of_their_own(tmp_path):
  runs = [write_rows(tmp_path / "s" / "runs" / f"{k:03}", stacx_rows()) for k in range(3)]
  points = "".join(f'{{"a.b": {value}}}\n' for value in (0.99999, 0.999992, 12345.0))
  (tmp_path / "s" / "points.jsonl").write_text(points)
  wanted = ["s a.b = 0.99999", "s a.b = 0.999992", "s a.b = 12345"]
  assert labels.labels(runs) == wanted
  assert texts(plotting.figure(runs).axes[0].get_legend()) == wanted


def test_sweeps_and_studies_of_one_name_are_told_apart(tmp_path):
  runs = []
  for whole in ("a/s", "b/s", "c/st/cells/stac/snake", "d/st/cells/stac/snake"):
    runs += [write_rows(tmp_path / whole / "runs" / f"{k:03}", stacx_rows()) for k in range(2)]
    (tmp_path / whole / "points.jsonl").write_text('{"x.y": "@s/z()", "train.seed": 0}\n' * 2)
  assert list(dict.fromkeys(labels.labels(runs))) == [
    *("a/s x.y = @s/z()", "b/s x.y = @s/z()"),
    *("c/st/stac snake x.y = @s/z()", "d/st/stac snake x.y = @s/z()"),
  ]


def test_a_run_that_is_given_twice_counts_once(tmp_path):
  runs = [write_rows(tmp_path / f"x_seed{k}", stacx_rows(offset=k)) for k in (0, 1)]
  again = tmp_path / "other" / ".." / "x_seed1"
  (tmp_path / "other").mkdir()
  page = plotting.figure([*runs, again])
  assert texts(page.axes[0].get_legend()) == ["x (2 seeds)"]
  assert texts(plotting.figure([again, again]).axes[0].get_legend()) == ["x_seed1"]


def test_runs_of_a_study_are_named_by_agent_and_environment(tmp_path):
  cell = tmp_path / "cells" / "stac" / "snake"
  runs = [write_rows(cell / "runs" / f"{k:03}", stacx_rows()) for k in range(2)]
  (cell / "points.jsonl").write_text('{"train.seed": 0}\n{"train.seed": 1}\n')
  assert labels.labels(runs) == ["stac snake"] * 2


@pytest.mark.parametrize(
  "name, text", [("runs.csv", "run,a.b\n0,1.0\n"), ("points.jsonl", '{"a.b": 1.0}\n')]
)
def test_a_run_that_the_table_lacks_has_the_name_of_its_folder(tmp_path, name, text):
  (tmp_path / name).write_text(text)
  found = labels.labels([tmp_path / "runs" / "000", tmp_path / "runs" / "001"])
  assert found == [f"{tmp_path.name} a.b = 1", "001"]


def test_many_lines_have_colours_of_their_own_and_a_legend_below(tmp_path):
  runs = [write_rows(tmp_path / f"run{i}", stacx_rows(offset=i)) for i in range(13)]
  page = plotting.figure(runs)
  top, panel, *_ = page.axes
  colours = [line.get_color() for line in top.get_lines()]
  assert len({tuple(colour) for colour in colours}) == 13
  assert [tuple(line.get_color()) for line in panel.get_lines()[::3]] == [*map(tuple, colours)]
  (legend,) = page.legends
  assert [text.get_text() for text in legend.get_texts()] == [f"run{i}" for i in range(13)]
  assert top.get_legend() is None
  plotting.plot(runs, tmp_path / "plot.png")


def texts(legend):
  return [text.get_text() for text in legend.get_texts()]


def drawn_names(figure):
  """The legend's names as they are read, which are drawn without an error."""
  figure.savefig(io.BytesIO())
  legend = figure.axes[0].get_legend() or figure.legends[0]
  assert not any(text.get_parse_math() for text in legend.get_texts())
  return texts(legend)


@pytest.mark.parametrize("more", [0, 12])
def test_names_are_shown_as_they_are(tmp_path, more):
  names = ["_hidden", r"x$\frac$", "cost$x$y", "two\nlines", *(f"_r{i}" for i in range(more))]
  runs = [write_rows(tmp_path / name, stacx_rows()) for name in names]
  assert drawn_names(plotting.figure(runs)) == [name.replace("\n", " ") for name in names]
  assert drawn_names(plotting.figure(runs[:1])) == names[:1]


def test_long_names_are_cut_in_the_middle_and_stand_below(tmp_path):
  run = write_rows(tmp_path / ("a" * 100 + "z" * 100), stacx_rows())
  page = plotting.figure([run])
  assert page.axes[0].get_legend() is None
  assert texts(page.legends[0]) == ["a" * 40 + " … " + "z" * 40]
  assert drawing.shown("\udcff-name", 4) == "?- … me"


def test_lines_beyond_what_a_legend_holds_are_drawn_without_a_name(tmp_path, monkeypatch, caplog):
  monkeypatch.setattr(plotting, "NAMED", 12)
  runs = [write_rows(tmp_path / f"run{i}", [{"env_steps": 1}]) for i in range(14)]
  page = plotting.figure(runs)
  assert len(page.axes[0].get_lines()) == 14 and len(texts(page.legends[0])) == 12
  assert "the legend names the first 12 of 14 lines" in caplog.text


def test_characters_that_the_font_lacks_are_one_line(tmp_path, caplog, recwarn):
  run = write_rows(tmp_path / "日本語", stacx_rows())
  plotting.plot([run], tmp_path / "plot.png")
  (record,) = caplog.records
  assert "font lacks characters" in record.getMessage() and not recwarn.list


def test_one_point_is_a_dot_and_no_episode_is_said(tmp_path):
  one = write_rows(tmp_path / "one", [{"env_steps": 64, "episode_return": 2.0, "u": 0.5}])
  assert [axes.get_lines()[0].get_marker() for axes in plotting.figure([one]).axes] == ["o", "o"]
  more = write_rows(tmp_path / "more", stacx_rows())
  assert plotting.figure([more]).axes[0].get_lines()[0].get_marker() == "None"
  none = write_rows(tmp_path / "none", [{"env_steps": 64, "metagrad_norm": 0.0}])
  page = plotting.figure([none])
  assert [text.get_text() for text in page.axes[0].texts] == ["no episode has finished"]
  page.savefig(io.BytesIO())


ODD = """null
[1, 2]
"text"
no json
{"episode_return": 3}
{"env_steps": null, "episode_return": 3}
{"env_steps": 10, "episode_return": 1.0}
{"env_steps": 20, "episode_return": NaN}
{"env_steps": 30, "episode_return": -Infinity, "metagrad_norm": null}
{"env_steps": 40, "episode_return": "high", "tuned/x/0": [1]}
{"env_steps": 50, "episode_return": 1e999}
{"env_steps": 60, "episode_return": 2.0}
{"env_steps": 7"""


def test_rows_that_are_none_are_left_out(tmp_path):
  run = write_rows(tmp_path / "odd", [])
  (run / "metrics.jsonl").write_text("[" * 100_000 + "\n" + ODD)
  row = {"env_steps": 1, "name": "beta", "counts": [1, 1], "edges": [0, 1, 2]}
  bad = ({}, {**row, "counts": [1]}, {**row, "edges": None}, {**row, "counts": [0, 0]})
  (run / "histograms.jsonl").write_text("".join(map(jsonl.encode, (*bad, row))))
  (axes,) = plotting.figure([run]).axes
  np.testing.assert_array_equal(axes.get_lines()[0].get_xydata(), [[10, 1], [60, 2]])
  assert [steps for steps, _ in plotting._histograms(run)["beta"]] == [1]
  jsonl.truncate(run / "metrics.jsonl", 30)
  kept = [row.get("env_steps") for row in jsonl.read(run / "metrics.jsonl")]
  assert kept == [None, None, 10, 20, 30]


def test_no_metrics_and_no_rows_are_named(tmp_path):
  with pytest.raises(UserError, match=r"absent.*metrics\.jsonl does not exist"):
    plotting.plot([tmp_path / "absent"], tmp_path / "plot.png")
  with pytest.raises(UserError, match=r"empty.*has no rows"):
    plotting.plot([write_rows(tmp_path / "empty", [])], tmp_path / "plot.png")
  good = write_rows(tmp_path / "good", [{"env_steps": 1}])
  with pytest.raises(RunError, match="cannot write "):
    plotting.plot([good], tmp_path / "nowhere" / "plot.png")
  assert not (tmp_path / "plot.png").exists()


def test_import_loads_neither_jax_nor_matplotlib():
  code = (
    "import sys, selftune.core.record.plotting; print({'jax', 'matplotlib'} & set(sys.modules))"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert done.stdout == "set()\n"


def test_folders_that_hold_no_run_are_left_out(tmp_path, caplog):
  run = write_rows(tmp_path / "run", [{"env_steps": 1}])
  other = tmp_path / "sweeps"
  assert labels.holding([run, other], "metrics.jsonl") == [run]
  assert f"left out, for want of a metrics.jsonl: {other}" in caplog.text
  assert labels.holding([other], "metrics.jsonl") == [other]  # the mistake is told of it

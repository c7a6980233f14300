"""What the documentation shows is what works: plugins train, gin loads, commands parse."""

import csv
import importlib
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import fakes
import numpy as np
import pytest

from selftune.core import config, reproduce
from selftune.core import train as training
from selftune.core.api import jsonl, registry
from selftune.core.commands import cli
from selftune.core.config import discovery
from selftune.core.engine import environments
from selftune.core.record import plotting

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "docs" / "examples"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.fixture(scope="module")
def examples():
  """The plugins of docs/examples are registered, until the tests of this file have ended."""
  discovery.load_all()
  modules = [path.stem for path in EXAMPLES.glob("my_*.py")]
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(EXAMPLES)
    for table in ("_classes", "_kinds"):
      patch.setattr(registry, table, dict(getattr(registry, table)))
    patch.setattr(plotting, "plot", lambda *_: None)
    before = set(registry.configurables())
    for module in modules:
      importlib.import_module(module)
    yield set(registry.configurables()) - before


def rows(workdir):
  return list(jsonl.read(workdir / "metrics.jsonl"))


@pytest.mark.slow
def test_the_plugins_that_are_shown_train(examples, tmp_path):
  progress = training.train(str(EXAMPLES / "mine.gin"), [], tmp_path / "run")
  assert progress.done and progress.episodes.finished > 0
  last = rows(tmp_path / "run")[-1]
  assert last["updates"] == 8 and last["grad_norm"] > 0
  with (tmp_path / "run" / "returns.csv").open() as file:
    returns = [float(row[1]) for row in csv.reader(file)]
  assert len(returns) == progress.episodes.finished and set(returns) <= {0.0, 1.0}


@pytest.mark.slow
def test_the_tuner_that_is_shown_tunes(examples, tmp_path):
  training.train(str(EXAMPLES / "online.gin"), [], tmp_path / "run")
  (alpha,) = (v for k, v in rows(tmp_path / "run")[-1].items() if k.endswith("alpha"))
  loaded = config.load(EXAMPLES / "online.gin").root.agent.metaopt.alpha
  assert 0.9 * loaded < alpha < loaded


@pytest.mark.slow
def test_the_environment_that_is_shown_runs_on_the_device(examples, tmp_path):
  progress = training.train(str(EXAMPLES / "device.gin"), [], tmp_path / "run")
  assert progress.done and rows(tmp_path / "run")[-1]["env_steps"] == 8 * 60


@pytest.mark.parametrize("name", ["my_env", "my_device_env"])
def test_both_corridors_are_the_same(examples, name):
  env = {"my_env": "corridor", "my_device_env": "device_corridor"}[name]
  pool = environments.make(registry.configurables()[env](length=3, max_steps=2), (0, 1, 2, 3))
  seen = [pool.reset()]
  for _ in range(40):
    pool.send(np.where(np.arange(4) < 2, 1, 0))  # two go right and reach the goal, two are cut
    seen.append(pool.recv())
  first, reward, discount = (
    np.stack([getattr(x, k) for x in seen]) for k in ("first", "reward", "discount")
  )
  assert first[0].all() and not reward[first].any() and discount[first].all()
  np.testing.assert_array_equal(discount, 1 - reward)
  assert reward[:, :2].sum() > 20 and not reward[:, 2:].any()
  np.testing.assert_array_equal(first[::3, 2:], True)  # the first, two steps, and the next first
  pool.close()


@pytest.mark.slow
def test_the_figure_that_is_shown_is_made(examples, tmp_path, capsys):
  assert reproduce.reproduce("mine/fig1", tmp_path, quick=True)
  said = capsys.readouterr().out.splitlines()
  assert [line.split(":")[0] for line in said[:2]] == ["metatrace", "tidbd"]
  assert (tmp_path / "mine" / "quick" / "fig1.png").stat().st_size > 10_000


def test_every_kind_of_plugin_is_shown(examples):
  kinds = {registry.kind_of(name) for name in examples} | {"loss"}  # tests/third_party
  assert kinds == set(registry.KINDS)
  page = (ROOT / "docs" / "plugins.md").read_text()
  shown = set(re.findall(r'--8<-- "docs/examples/(.+)"', page))
  assert shown == {path.name for path in EXAMPLES.iterdir() if path.is_file()}


def notebook():
  """The tutorial's cells of code."""
  cells = json.loads((ROOT / "docs" / "tutorial.ipynb").read_text())["cells"]
  return [cell for cell in cells if cell["cell_type"] == "code"]


def executed(code, folder):
  """What a program prints, in a process and a folder of its own."""
  (folder / "shown.py").write_text(code)
  environment = os.environ | {"MPLBACKEND": "agg", "XLA_FLAGS": ""}
  done = subprocess.run(
    [sys.executable, "shown.py"], cwd=folder, env=environment, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


@pytest.mark.long
@pytest.mark.slow
def test_the_tutorial_runs(tmp_path):
  """As a program: a line of IPython's own is left out."""
  cells = [[line for line in cell["source"] if not line.startswith("%")] for cell in notebook()]
  code = "\n".join("".join(cell) for cell in cells)
  assert executed(code, tmp_path) == "caught 5 of 5\n"


def test_the_tutorial_holds_no_output():
  assert all(not cell["outputs"] and cell["execution_count"] is None for cell in notebook())


@pytest.mark.long
@pytest.mark.slow
def test_python_that_is_shown_runs(tmp_path):
  """That of README which trains; with fewer steps."""
  texts = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
  (code,) = (text for text in texts if "selftune.train" in text)
  executed(code.replace("200_000", "2_000"), tmp_path)
  assert (tmp_path / "runs" / "pole" / "checkpoints").is_dir()


def blocks(language):
  return [
    pytest.param(text, id=f"{page.name}-{i}")
    for page in PAGES
    for i, text in enumerate(re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.S))
  ]


@pytest.mark.parametrize("text", blocks("gin"))
def test_gin_that_is_shown_loads(text, tmp_path):
  """A block's first line names the experiment that it goes on top of."""
  name = text.partition("\n")[0].removeprefix("# ")
  path = tmp_path / "shown.gin"
  path.write_text(f"include '{name}.gin'\n{text}")
  config.load(path)


def commands():
  """Lines that call selftune, in headers of gin files too; loops and continuations are undone."""
  texts = [block.values[0] for block in blocks("bash")]
  texts += [path.read_text() for path in (ROOT / "gin_configs").rglob("*.gin")]
  for text in texts:
    for line in re.sub(r"\s*\\\n\s*", " ", text).splitlines():
      found = re.match(r"[#\s]*selftune (.*?)(\s#.*|\s{2,}.*)?$", line)
      if found:
        yield found[1]


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_commands_that_are_shown_can_be_run(command):
  words = shlex.split(command)
  found = cli.parse(list(itertools.takewhile(lambda w: w not in (">", "&&", "|"), words)))
  experiment = getattr(found, "config", "")
  fakes.skip_without_library(experiment)
  if experiment.startswith("experiments/") and "$" not in command:
    config.load(experiment, found.bind)

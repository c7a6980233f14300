"""The folder of a run: what a start leaves in it, and what a later one finds there."""

import json
import sys

import pytest

from selftune.core import config as config_module
from selftune.core.record.workdir import Workdir


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

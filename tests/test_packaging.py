"""What an installed selftune holds: every package, every gin file, and nothing at top level."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import selftune

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("core", "plugins")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_is_listed():
  found = {"selftune"} | {
    ".".join(("selftune", *folder.relative_to(ROOT).parts))
    for top in SOURCES
    for folder in (ROOT / top, *(ROOT / top).rglob("*"))
    if folder.is_dir() and any(folder.glob("*.py"))
  }
  assert found == set(PYPROJECT["tool"]["setuptools"]["packages"])
  for package in found:
    assert (ROOT / Path(*package.split(".")[1:]) / "__init__.py").is_file(), package


def test_the_version_is_written_in_three_places_and_equal():
  newest = re.search(r"^## \[(.+)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
  assert PYPROJECT["project"]["version"] == selftune.__version__ == newest[1]


def test_every_text_file_is_utf8_whatever_the_locale():
  def of_locale(call):
    """Whether a call reads or writes text and does not say how it is encoded."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    keywords = {keyword.arg for keyword in call.keywords}
    if name in ("run", "Popen") and {"text", "universal_newlines"} & keywords:
      return True
    given = [getattr(a, "value", None) if isinstance(a, ast.Constant) else a for a in call.args]
    if name in ("read_text", "write_text"):
      return "encoding" not in keywords and not {"utf-8", "utf-8-sig"} & {
        x for x in given if isinstance(x, str)
      }
    path_first = isinstance(call.func, ast.Name) or name == "fdopen"
    mode = given[1 if path_first else 0 :][:1]
    other = mode and not isinstance(mode[0], str | ast.IfExp)  # such as WriterPlugin.open(run)
    binary = mode and isinstance(mode[0], str) and "b" in mode[0]
    opens = name in ("open", "fdopen") and not other and not binary
    return opens and "encoding" not in keywords

  found = [
    f"{path.relative_to(ROOT)}:{node.lineno}"
    for folder in (*SOURCES, "benchmarks", "docs")
    for path in (ROOT / folder).rglob("*.py")
    for node in ast.walk(ast.parse(path.read_text("utf-8")))
    if isinstance(node, ast.Call) and of_locale(node)
  ]
  assert found == []


@pytest.mark.slow
def test_the_wheel_built_from_the_sdist_holds_all(tmp_path):
  tree = tmp_path / "tree"
  anywhere = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__")
  top = {"build", "dist", "runs", "wandb", "site", "report"}
  skip = lambda folder, names: anywhere(folder, names) | (top if Path(folder) == ROOT else set())
  shutil.copytree(ROOT, tree, ignore=skip)
  build = "import setuptools.build_meta as b; b.build_sdist('../sdist')"
  subprocess.run([sys.executable, "-c", build], cwd=tree, check=True, capture_output=True)
  (sdist,) = (tmp_path / "sdist").iterdir()
  pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
  subprocess.run([*pip, "--wheel-dir", str(tmp_path), str(sdist)], check=True)
  (wheel,) = tmp_path.glob("*.whl")
  with zipfile.ZipFile(wheel) as archive:
    names = set(archive.namelist())
    archive.extractall(tmp_path / "site")
  expected = {Path("py.typed"), *(path.relative_to(ROOT) for path in ROOT.glob("*.py"))}
  expected |= {path.relative_to(ROOT) for top in SOURCES for path in (ROOT / top).rglob("*.py")}
  expected |= {path.relative_to(ROOT) for top in SOURCES for path in (ROOT / top).rglob("*.h")}
  expected |= {path.relative_to(ROOT) for path in (ROOT / "gin_configs").rglob("*.*")}
  expected |= {path.relative_to(ROOT) for path in (ROOT / "data").iterdir()}
  held = {Path(name).relative_to("selftune") for name in names if name.startswith("selftune/")}
  assert held == expected
  info = f"selftune-{selftune.__version__}.dist-info"
  assert {name.split("/")[0] for name in names} == {"selftune", info}
  assert f"{info}/licenses/LICENSE" in names
  # It runs from where it was installed, not from this checkout.
  code = "import selftune.core.api.registry as r; print(r.__file__)"
  out = subprocess.run(
    [sys.executable, "-c", code],
    cwd=tmp_path,
    env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
    capture_output=True,
    text=True,
    check=True,
  )
  assert out.stdout.strip() == str(tmp_path / "site" / "selftune" / "core" / "api" / "registry.py")

"""Registration, discovery of installed packages, and what happens to broken ones."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from selftune.core import config
from selftune.core.api import registry
from selftune.core.api.errors import ConfigError
from selftune.core.commands.cli import main
from selftune.core.config import discovery, values

THIRD_PARTY = Path(__file__).parent / "third_party"


@dataclasses.dataclass(frozen=True)
class Documented:
  """Fits."""

  size: int = 1


@dataclasses.dataclass
class Mutable:
  """Is not frozen."""


@dataclasses.dataclass(frozen=True)
class Undocumented:
  size: int = 1


@pytest.fixture
def scratch(monkeypatch):
  """A copy of the registry's tables, so that what a test registers is gone after it."""
  discovery.load_all()
  for table in ("_classes", "_kinds", "_unavailable"):
    monkeypatch.setattr(registry, table, dict(getattr(registry, table)))
  monkeypatch.setattr(discovery, "_loaded", set(discovery._loaded))


@pytest.mark.parametrize(
  "kind, name, cls, error, words",
  [
    ("los", "a", Documented, ValueError, "'los' is no kind of plugin. Kinds: env, network"),
    ("loss", "CamelCase", Documented, ValueError, "snake_case"),
    ("loss", "macro", Documented, ValueError, "'macro' cannot be a plugin's name"),
    ("loss", "vtrace", Documented, ValueError, "taken by selftune.plugins.losses.vtrace.VTrace"),
    ("loss", "a", Mutable, TypeError, "Mutable must be a @dataclasses.dataclass(frozen=True)"),
    ("loss", "a", int, TypeError, "int must be a @dataclasses.dataclass(frozen=True)"),
    ("loss", "a", Undocumented, TypeError, "Undocumented needs a docstring"),
  ],
)
def test_register_refuses(scratch, kind, name, cls, error, words):
  before = registry.configurables()
  with pytest.raises(error) as caught:
    registry.register(kind, name)(cls)
  assert words in str(caught.value)
  assert registry.configurables() == before


def test_register_returns_the_class_itself_and_names_it(scratch):
  assert registry.register("loss", "scratch_loss")(Documented) is Documented
  assert registry.plugins()["loss"]["scratch_loss"] is Documented
  assert registry.kind_of("scratch_loss") == "loss"
  assert registry.name_of(Documented()) == registry.name_of(Documented) == "scratch_loss"
  with pytest.raises(ValueError, match="registered already, as 'scratch_loss'"):
    registry.register("loss", "another_name")(Documented)


def test_a_class_that_is_defined_again_takes_the_place_of_the_first(scratch, tmp_path):
  """As where a cell of a notebook is run twice."""

  def cell(cost, kind="loss", name="defined_again"):
    namespace = {"dataclasses": dataclasses, "register": registry.register, "__name__": "__main__"}
    text = LOSS.format(name=name).replace("cost: float = 1.0", f"cost: float = {cost}")
    exec(text.replace("from selftune import register", "").replace('"loss"', repr(kind)), namespace)
    return namespace[f"Loss{name}"]

  first, second = cell(1.0), cell(2.0)
  assert registry.plugins()["loss"]["defined_again"] is second is not first
  (tmp_path / "x.gin").write_text("")
  assert config.load(tmp_path / "x.gin", root="defined_again").root == second(2.0)
  with pytest.raises(ValueError, match="name 'defined_again' is taken by __main__"):
    cell(3.0, kind="corrector")
  with pytest.raises(ValueError, match="registered already, as 'defined_again'"):
    registry.register("loss", "defined_again")(second)


def test_core_dataclasses_are_no_plugins(scratch):
  @registry.configurable("scratch_core")
  @dataclasses.dataclass(frozen=True)
  class Core:
    """Bound by gin, plugged in by nobody."""

  assert registry.kind_of("scratch_core") is None
  assert registry.configurables()["scratch_core"] is Core
  assert all("scratch_core" not in names for names in registry.plugins().values())


def test_name_of_a_stranger():
  with pytest.raises(KeyError, match="Mutable is not registered"):
    registry.name_of(Mutable())


def test_every_module_in_the_tree_is_available_and_loading_again_changes_nothing():
  discovery.load_all()
  first = registry.plugins()
  discovery.load_all()
  assert registry.plugins() == first
  assert {m: why for m, why in registry.unavailable().items() if m.startswith("selftune.")} == {}
  assert first["corrector"]["vtrace"].__name__ == "VTrace"
  assert list(first) == list(registry.KINDS)


def test_defaults_fit_their_annotations():
  """So that the operative configuration of a run loads back."""
  discovery.load_all()
  for name, cls in registry.configurables().items():
    annotations = values.annotations(cls)
    for field in dataclasses.fields(cls):
      default = field.default
      if default is not dataclasses.MISSING and not dataclasses.is_dataclass(default):
        assert values.fits(default, annotations[field.name]), f"{name}.{field.name}"


def distribution(folder: Path, name: str, module: str, text: str) -> None:
  """An installed distribution, as importlib.metadata sees one."""
  info = folder / f"{name}-1.0.dist-info"
  info.mkdir(parents=True)
  (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
  (info / "entry_points.txt").write_text(f"[selftune.plugins]\n{name} = {module}\n")
  (folder / f"{module}.py").write_text(text)


LOSS = """
import dataclasses
from selftune import register

@register("loss", "{name}")
@dataclasses.dataclass(frozen=True)
class Loss{name}:
  '''A third party's.'''
  cost: float = 1.0

  def __call__(self, x):
    return self.cost, dict()
"""


def test_a_broken_module_is_unavailable_and_the_others_work(scratch, monkeypatch, tmp_path):
  distribution(tmp_path, "whole", "scratch_whole", LOSS.format(name="whole_loss"))
  broken = LOSS.format(name="half_loss") + "\nimport a_package_nobody_has\n"
  distribution(tmp_path, "broken", "scratch_broken", broken)
  monkeypatch.syspath_prepend(tmp_path)
  discovery.load_all()
  losses = registry.plugins()["loss"]
  assert "whole_loss" in losses and "entropy" in losses
  assert "half_loss" not in losses  # registered, and then its module failed
  why = "ModuleNotFoundError: No module named 'a_package_nobody_has'"
  assert registry.unavailable() == {"broken (scratch_broken)": why}
  (tmp_path / "x.gin").write_text("half_loss.cost = 2.0\n")
  with pytest.raises(ConfigError) as caught:
    config.load(tmp_path / "x.gin", root="whole_loss")
  assert "no component is named 'half_loss'" in str(caught.value)
  assert f"unavailable: broken (scratch_broken): {why}" in str(caught.value)
  (tmp_path / "x.gin").write_text("whole_loss.cost = 2.0\n")
  assert config.load(tmp_path / "x.gin", root="whole_loss").root.cost == 2.0


ENDS = """
class Abort(BaseException): pass
print("hello from a library")
raise {what}
"""
ENDINGS = {
  "exit": ("SystemExit(3)", "ImportError: it raises SystemExit(3)"),
  "abort": ("Abort('no')", "ImportError: it raises Abort('no')"),
  "error": ("OSError('no disk')", "OSError: no disk"),
}


@pytest.mark.parametrize("how", ENDINGS)
def test_a_package_cannot_end_the_program_or_spoil_its_output(
  scratch, monkeypatch, tmp_path, capsys, how
):
  what, why = ENDINGS[how]
  distribution(tmp_path, how, f"scratch_{how}", ENDS.format(what=what))
  monkeypatch.syspath_prepend(tmp_path)
  assert main(["plugins", "--json"]) == 0
  out, err = capsys.readouterr()
  assert json.loads(out)["unavailable"] == {f"{how} (scratch_{how})": why}
  assert err == "hello from a library\n"


@pytest.mark.parametrize("how", ENDINGS)
def test_an_imported_module_cannot_either(scratch, monkeypatch, tmp_path, capsys, how):
  what, why = ENDINGS[how]
  (tmp_path / f"scratch_gin_{how}.py").write_text(ENDS.format(what=what))
  path = tmp_path / "x.gin"
  path.write_text(f"import scratch_gin_{how}\n")
  monkeypatch.setattr(sys, "path", list(sys.path))
  assert main(["config", str(path)]) == 2
  out, err = capsys.readouterr()
  said, message = err.splitlines()
  assert (out, said) == ("", "hello from a library")
  reason = why.partition(": ")[2]
  assert message == f"selftune: {path}:1: cannot import scratch_gin_{how}: {reason}"


def test_ctrl_c_amid_an_import_is_the_users(scratch, monkeypatch, tmp_path):
  distribution(tmp_path, "slow", "scratch_slow", "raise KeyboardInterrupt")
  monkeypatch.syspath_prepend(tmp_path)
  with pytest.raises(KeyboardInterrupt):
    discovery.load_all()


def test_the_registry_does_not_import_jax():
  code = "import sys, selftune.core.api.registry; sys.exit('jax' in sys.modules)"
  assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_an_installed_package_is_discovered(tmp_path):
  """The example package, installed by pip; nothing but its metadata says that it exists."""
  source, target = tmp_path / "source", tmp_path / "target"
  shutil.copytree(THIRD_PARTY, source)
  pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
  subprocess.run([*pip, "--target", str(target), str(source)], check=True)
  (tmp_path / "x.gin").write_text("logit_norm.cost = 0.5\n")
  code = (
    "import json, sys; from selftune.core import config\n"
    "from selftune.core.api import registry, tunables\n"
    "root = config.load(sys.argv[1], root='logit_norm').root\n"
    "names = [t.name for t in tunables.declared('logit_norm', root)]\n"
    "print(json.dumps([root.cost, names, registry.kind_of('logit_norm'), registry.unavailable()]))"
  )
  result = subprocess.run(
    [sys.executable, "-c", code, str(tmp_path / "x.gin")],
    env={**os.environ, "PYTHONPATH": os.pathsep.join([str(target), *sys.path])},
    capture_output=True,
    text=True,
    check=True,
  )
  assert json.loads(result.stdout) == [0.5, ["logit_norm.cost"], "loss", {}]

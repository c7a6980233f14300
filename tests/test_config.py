"""Strict gin: what loads, what is saved, and every mistake with its one message."""

import dataclasses
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, Literal

import gin
import pytest

from selftune.core import config
from selftune.core.api import registry
from selftune.core.api.contracts import Corrector, LossTerm
from selftune.core.api.errors import ConfigError
from selftune.core.api.ranges import Count, Decay, Fraction, Natural, NotNegative, Positive
from selftune.core.config import discovery, loading, reading, values
from selftune.plugins.losses.entropy import Entropy
from selftune.plugins.losses.vtrace import VTrace


@registry.configurable("scratch_part")
@dataclasses.dataclass(frozen=True)
class Part:
  """A component of core's own."""

  size: int = 1
  rate: float = 0.5
  inner: "Part | None" = None

  def __post_init__(self):
    if self.size < 0:
      raise ValueError(f"size must not be negative, got {self.size}")


@registry.configurable("scratch_root")
@dataclasses.dataclass(frozen=True)
class Root:
  """One field of each sort."""

  corrector: Corrector
  terms: tuple[LossTerm, ...] = ()
  part: Part = Part()
  number: float = 0.0
  count: int = 0
  flag: bool = False
  name: str | None = None
  mode: Literal["fast", "slow"] = "fast"
  sizes: tuple[int, ...] = (1, 2)
  pair: tuple[int, str] = (1, "a")
  table: Mapping[str, float] | None = None
  anything: Any = None
  lists: Mapping[str, tuple[float, ...]] | None = None
  share: Fraction | None = None
  steps: Count = 1
  counts: tuple[Count, ...] = ()
  rate: Positive | None = None
  decay: Decay = 0.9


INF, NAN = float("inf"), float("nan")
BASE = "scratch_root.corrector = @vtrace()\n"


@pytest.fixture
def load(tmp_path):
  def load(text, *bindings, root="scratch_root"):
    path = tmp_path / "x.gin"
    path.write_text(text, "utf-8")
    try:
      return config.load(path, bindings, root=root)
    finally:
      assert gin.config_str() == "" and gin.operative_config_str() == ""

  return load


def message(load, text, *bindings):
  with pytest.raises(ConfigError) as caught:
    load(text, *bindings)
  return str(caught.value)


def test_builds_everything_below_the_root(load):
  loaded = load(
    BASE
    + "depth = 3\n"
    + "vtrace.gamma = 0.9\n"
    + "scratch_root:\n  terms = (@entropy(), @aux/entropy())\n  part = @outer/scratch_part()\n"
    + "entropy.cost = 0.1\naux/entropy.cost = 0.2\n"
    + "scratch_part.size = %depth\n"
    + "outer/scratch_part.inner = @inner/scratch_part()\n"
    + "inner/scratch_part.inner = None\n",
    "scratch_root.number = 2",
    "inner/scratch_part.rate = 0.25",
  )
  assert loaded.root == Root(
    corrector=VTrace(gamma=0.9),
    terms=(Entropy(0.1), Entropy(0.2)),
    part=Part(size=3, inner=Part(size=3, rate=0.25)),
    number=2,
  )
  assert loaded.flat["inner/scratch_part.size"] == 3
  assert loaded.flat["aux/entropy.cost"] == 0.2
  assert loaded.flat["scratch_root.terms"] == "(@entropy(), @aux/entropy())"
  assert loaded.flat["scratch_root.sizes"] == (1, 2)  # a default


@pytest.mark.parametrize("kind", ["text", "operative"])
def test_saved_configurations_load_back_and_name_what_gin_used(load, kind):
  loaded = load(
    BASE
    + "part = @scratch_part()\nscratch_root.part = %part\n"
    + "size = 4\npart/scratch_part.size = %size\n"
    + "scratch_root.terms = (@entropy(), @aux/entropy())\naux/entropy.cost = 0.2\n"
    + "scratch_root.table = {'a': 1, 'b': 2.5}\n"
  )
  again = load(getattr(loaded, kind))
  assert again.root == loaded.root
  assert again.flat == loaded.flat
  assert getattr(again, kind) == getattr(loaded, kind)
  used = {line.split(" =")[0] for line in loaded.operative.splitlines() if " =" in line}
  assert {key for key in used if "." in key} == set(loaded.flat)


ODD = (
  "1",
  "1.0",
  "-0.0",
  "0xff",
  "1_000",
  "5e-324",
  "1.7976931348623157e308",
  "9223372036854775807",
  "-9223372036854775808",
  "True",
  "None",
  "()",
  "[]",
  "{}",
  "((1,),)",
  "[[1, (2,)], {'a': [3, {}]}]",
  "{'z': (1, 2), 'a': (3,), (1, 'k'): {2.5: None}}",  # in this order
  "{'a long name of a setting': (0.125, 0.25, 0.5), 'Another long name': (1.5, 2.5, 3.5)}",
  "[" * 40 + "]" * 40,
  "''",
  "'café 😀'",
  r"'caf\xe9'",
  r"'a\nb\tc\x00\x85\u2028'",
  r"'\ud800'",
  "'\"\\''",
  r"'a\\b'",
  r"r'\d'",
  "'@entropy()'",
  "'%gin.REQUIRED'",
  "'# no comment'",
  "'a' 'b'",
  "'''a\nb'''",
  "b'bytes'",
  "'" + "word " * 60 + "'",
  "('" + "word " * 60 + "', 1)",
  "{'" + "word " * 30 + "': '" + "no_space" * 30 + "'}",
)


@pytest.mark.parametrize("kind", ["text", "operative"])
@pytest.mark.parametrize("literal", ODD)
def test_odd_values_come_back_from_what_is_saved(load, literal, kind):
  loaded = load(f"{BASE}scratch_root.anything = {literal}\n")
  again = load(getattr(loaded, kind))
  assert repr(again.root) == repr(loaded.root)  # 1 is not 1.0 here, and -0.0 not 0.0
  assert getattr(again, kind) == getattr(loaded, kind)


DEEP = (  # as Python says it
  "too many nested parentheses."
  if sys.version_info >= (3, 12)
  else "a value from here on cannot be read: maximum recursion depth"
)


@pytest.mark.parametrize(
  "literal, words",
  [
    ("1e400", "inf is no number that a configuration can hold. Write a finite one, such as 1e30."),
    ("(1, [-1e400])", "-inf is no number"),
    ("{'a': {1e400: 1}}", "inf is no number"),
    ("9223372036854775808", "a whole number has at most 63 bits. Write it with an exponent, such"),
    ("0x" + "f" * 5000, "a whole number has at most 63 bits"),
    ("1" * 5000, "Exceeds the limit (4300 digits) for integer string conversion: value has 5000"),
    ("{[1]: 2}", "a value from here on cannot be read: unhashable type: 'list'."),
    ("{1, 2}", "Expected ':'"),
    ("nan", "cannot read the value nan"),
    ("f'x'", "= f'x'"),
    ("'a\0b'", "cannot contain null bytes"),
    ("[" * 2000 + "]" * 2000, DEEP),
  ],
)
def test_values_that_would_not_come_back_are_refused(load, tmp_path, literal, words):
  for name in ("scratch_root.anything", "m"):
    found = message(load, f"{BASE}{name} = {literal}\nscratch_root.name = %m\n")
    assert found.startswith(f"{tmp_path / 'x.gin'}:") and words in found
    assert len(found) < 500 and "\n" not in found


def test_what_the_saved_text_lacks_is_refused_by_its_binding(load, monkeypatch, tmp_path):
  monkeypatch.setattr(loading, "write", lambda imports, macros, bindings: BASE)
  found = message(load, f"{BASE}\nscratch_root.count = 3\n")
  assert found.startswith(f"{tmp_path / 'x.gin'}:3: 3 would not come back from a saved config")


def test_a_default_that_cannot_be_written_is_not_in_the_operative_configuration(load):
  @registry.configurable("scratch_boundless")
  @dataclasses.dataclass(frozen=True)
  class Boundless:
    """Has an infinite default."""

    limit: float = INF
    part: Part = Part(size=3)
    count: int = 2

  loaded = load("", root="scratch_boundless")
  assert loaded.operative == "# scratch_boundless\nscratch_boundless.count = 2\n"


def test_a_number_is_the_same_however_it_is_written(load):
  lines = "number = {0}\nscratch_root.lists = {{'a': ({0}, 2)}}\nscratch_root.share = {0}\n"
  one, same = (load(f"{BASE}scratch_root.{lines.format(x)}").flat for x in ("1", "1.0"))
  assert repr(one) == repr(same)
  assert one["scratch_root.lists"] == {"a": (1.0, 2.0)}
  assert repr(one["scratch_root.sizes"]) == "(1, 2)"


@pytest.mark.parametrize(
  "value, annotation, expected",
  [
    (1, float, "1.0"),
    (True, bool, "True"),
    (None, tuple[float, str], "None"),  # a default that does not fit
    ((1, 1), tuple[int, float], "(1, 1.0)"),
    ((1, 2), tuple[float, ...], "(1.0, 2.0)"),
    ((), tuple[()], "()"),
    ((1,), tuple, "(1,)"),
    ([1, 2], list[float], "[1.0, 2.0]"),
    ({"a": (1,)}, Mapping[str, tuple[float, ...]], "{'a': (1.0,)}"),
    (1, Fraction | None, "1.0"),
    (1, Any, "1"),
  ],
)
def test_an_int_is_a_float_where_one_is_meant(value, annotation, expected):
  assert repr(values.with_floats(value, annotation)) == expected


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path):
  (tmp_path / "base.gin").write_bytes(f"\ufeff{BASE}".encode())
  (tmp_path / "x.gin").write_bytes("\ufeffinclude 'base.gin'\nscratch_root.name = 'é'\n".encode())
  assert config.load(tmp_path / "x.gin", root="scratch_root").root.name == "é"


@pytest.mark.parametrize(
  "line, value",
  [
    ("number = 3", 3),
    ("number = -1e-3", -1e-3),
    ("count = 1_000_000", 1_000_000),
    ("flag = True", True),
    ("name = 'x'", "x"),
    ("name = None", None),
    ("mode = 'slow'", "slow"),
    ("sizes = ()", ()),
    ("sizes = (4, 5, 6)", (4, 5, 6)),
    ("pair = (2, 'b')", (2, "b")),
    ("table = {'a': 1}", {"a": 1}),
    ("anything = [1, 'x', (2,)]", [1, "x", (2,)]),
  ],
)
def test_values_that_fit(load, line, value):
  root = load(BASE + f"scratch_root.{line}").root
  assert getattr(root, line.split(" ")[0]) == value


@pytest.mark.parametrize(
  "line, words",
  [
    ("number = '3'", "takes float, not '3'."),
    ("number = True", "takes float, not True."),
    ("count = 1e6", "takes int, not 1000000.0. Write 1000000."),
    ("count = True", "takes int, not True."),
    ("flag = 1", "takes bool, not 1. Write True."),
    ("name = 3", "takes str or None, not 3."),
    ("mode = 'quick'", "takes one of 'fast', 'slow', not 'quick'."),
    ("sizes = [4, 5]", "takes a tuple, each item int, not [4, 5]. Write (4, 5)."),
    ("sizes = (4)", "not 4. A tuple of one needs a comma: (4,)."),
    ("sizes = (4, 'a')", "not (4, 'a')."),
    ("pair = (1, 2)", "takes tuple[int, str], not (1, 2)."),
    ("pair = (1, 'a', 2)", "not (1, 'a', 2)."),
    ("table = {'a': 'b'}", "not {'a': 'b'}."),
    ("corrector = 'vtrace'", "takes a component of kind corrector, not 'vtrace'. "),
    ("corrector = 'vtrace'", "A component is written @vtrace()."),
    ("corrector = @entropy()", "takes a component of kind corrector, not @entropy()."),
    ("corrector = None", "takes a component of kind corrector, not None."),
    ("terms = @entropy()", "A tuple of one needs a comma: (@entropy(),)."),
    ("terms = (@vtrace(),)", "each item a component of kind loss, not (@vtrace(),)."),
    ("part = @vtrace()", "takes Part, not @vtrace()."),
    ("count = @scratch_part()", "takes int, not @scratch_part()."),
    ("lists = {'a': (0.1)}", "not {'a': 0.1}. A tuple of one needs a comma: (0.1,)."),
    ("lists = {'a': [0.1]}", "not {'a': [0.1]}. Write (0.1,)."),
    ("share = 99", "takes float from 0 to 1 or None, not 99."),
    ("share = -0.1", "takes float from 0 to 1 or None, not -0.1."),
    ("steps = 0", "takes int at least 1, not 0."),
    ("steps = 2_147_483_648", "at least 1, not 2147483648. It is at most 2_147_483_647."),
    ("counts = (1, 2_147_483_648)", "not (1, 2147483648). It is at most 2_147_483_647."),
    ("rate = 1e-39", "takes float above 0 or None, not 1e-39. In float32 that is 0."),
    ("decay = 1", "takes float from 0 to below 1, not 1."),
    ("steps = 1e6", "takes int at least 1, not 1000000.0. Write 1000000."),
  ],
)
def test_values_that_do_not_fit(load, tmp_path, line, words):
  found = message(load, BASE + f"scratch_root.{line}")
  assert found.startswith(f"{tmp_path / 'x.gin'}:2: scratch_root.{line.split(' ')[0]} takes ")
  assert words in found


def test_a_macro_is_checked_as_what_it_holds(load):
  assert load(BASE + "m = (1, 2)\nscratch_root.sizes = %m").root.sizes == (1, 2)
  found = message(load, BASE + "m = 'a'\nn = (%m, 2)\nscratch_root.sizes = %n")
  assert "x.gin:4: scratch_root.sizes takes a tuple, each item int, not ('a', 2)." in found


@pytest.mark.parametrize(
  "text, words",
  [
    ("vtrase.gamma = 1.0", "2: no component is named 'vtrase'. Did you mean 'vtrace'?"),
    ("vtrase:\n  gamma = 1.0", "2: no component is named 'vtrase'. Did you mean 'vtrace'?"),
    ("scratch_root.corrector = @vtrase()", "2: no component is named 'vtrase'. Did you mean"),
    ("scratch_root.terms = (\n  @entropi(),)", "2: no component is named 'entropi'. Did you"),
    ("aux.entropy.cost = 1.0", "2: no component is named 'aux.entropy'. Did you mean 'entropy'"),
    ("vtrace.gama = 1.0", "2: 'vtrace' has no parameter 'gama'. Did you mean 'gamma'? It has: ga"),
    ("vtrace:\n  gamma = 0.5\n  gama = 1.0", "4: 'vtrace' has no parameter 'gama'."),
    ("seed = 1\nscratch_root.count = %sed", "3: macro '%sed' is not defined. Did you mean 'seed'"),
    ("seed = 1\nsead = 2\nscratch_root.count = %seed", "3: macro 'sead' is defined but never re"),
    ("entropy.cost = 1.0", "2: 'entropy' is bound but never built. Refer to it as @entropy(), or"),
    ("aux/vtrace.gamma = 1.0", "2: scope 'aux' is never opened for 'vtrace'. Write @aux/vtrace()"),
    ("scratch_root.terms = (@aux/entropy(),)\nax/entropy.cost = 1.0", "3: scope 'ax' is never "),
    ("scratch_root.terms = (@aux/entropy(),)\nax/entropy.cost = 1.0", "Did you mean 'aux'?"),
    ("scratch_root.corrector = @vtrace", "2: @vtrace is not built. Write @vtrace()."),
    ("scratch_root.count = %gin.REQUIRED", "2: scratch_root.count must be given (int). Write: s"),
    ("n = %gin.REQUIRED\nscratch_root.count = %n", "2: n must be given. Write: n = ..."),
    ("n = %n\nscratch_root.count = %n", "2: %n contains itself."),
    (
      "scratch_root.part = @scratch_part()\nscratch_part.inner = @scratch_part()",
      "3: scratch_part contains itself.",
    ),
    (
      "scratch_root.part = @scratch_part()\nscratch_part.rate = 1.0\nscratch_part.size = -1",
      "4: scratch_part: size must not be negative, got -1",
    ),
    ("include 'no_such.gin'", "2: no file 'no_such.gin' in "),
    ("import no_such_module_at_all", "2: cannot import no_such_module_at_all: No module named"),
    ("import no_such_module_at_all", " or the current folder, or its folder on PYTHONPATH."),
    ("from __gin__ import dynamic_registration", "2: gin's dynamic registration is not supported"),
    ("scratch_root.count = ", "2: Unable to parse value"),
    (
      "scratch_root.name = fast",
      "2: cannot read the value fast in 'scratch_root.name = fast'. A s",
    ),
    ("scratch_root.name = 'fast", "x.gin:2: "),
    ("scratch_root.sizes = (1,", "a bracket or quote is not closed."),
    ("scratch_root", "2: Couldn't parse statement"),
    ("vtrace:\ngamma = 1.0", "x.gin:3: Expected indentation"),
    ("vtrace:\n    gamma = 1.0\n  alpha = 1.0", "x.gin:4: "),
  ],
)
def test_mistakes_in_a_file(load, text, words):
  found = message(load, BASE + text)
  assert words in found
  assert "In call to configurable" not in found and "Traceback" not in found


def test_a_parameter_without_default_must_be_given(load, tmp_path):
  found = message(load, "scratch_root.count = 1")
  assert found.startswith(f"{tmp_path / 'x.gin'}: scratch_root.corrector must be given ")
  assert "@leaky_vtrace(), @vtrace()" in found
  assert found.endswith("Write: scratch_root.corrector = ...")


@pytest.mark.parametrize(
  "bind, words",
  [
    ("scratch_root.cuont = 1", "has no parameter 'cuont'. Did you mean 'count'?"),
    ("scratch_root.count = 1.5", "scratch_root.count takes int, not 1.5."),
    ("scratch_root.name = pong", "A string needs quotes ('pong')"),
    ("scratch_root.count", "Couldn't parse statement"),
    ("scratch_root.count =", "Unable to parse value"),
    ("", "write 'component.parameter = value' or 'macro = value'."),
    ("import x", "write 'component.parameter = value' or 'macro = value'."),
    ("include 'envs/cach.gin'", "no file 'envs/cach.gin' in . or "),
    ("sead = 3", "macro 'sead' is defined but never read. Did you mean 'seed'?"),
  ],
)
def test_mistakes_in_a_bind(load, bind, words):
  found = message(load, BASE + "seed = 1\nscratch_root.number = %seed", bind)
  assert found.startswith(f"--bind '{bind}': ")
  assert words in found


def test_a_binding_may_include_a_file():
  binds = ("include 'envs/cartpole.gin'", "envpool.max_episode_steps = 7")
  found = config.load("experiments/catch_stacx", binds).root.env
  assert (found.task, found.max_episode_steps) == ("CartPole-v1", 7)
  back = ("include 'envs/cartpole.gin'", "include 'envs/catch.gin'")
  assert config.load("experiments/cartpole_stac", back).root.env.task == "Catch-v0"


def test_later_bindings_win(load):
  text = BASE + "seed = 1\nscratch_root.count = %seed"
  assert load(text, "seed = 2", "seed = 3").root.count == 3
  assert load(text, "seed = 2", "scratch_root.count = %seed").root.count == 2


@pytest.fixture
def forgets():
  """Forgets the modules that a test imports: a later one may have others by their names."""
  yield
  for name in [name for name in sys.modules if name.startswith("scratch_")]:
    del sys.modules[name]


def test_a_module_beside_the_gin_file_or_in_the_current_folder_is_found(
  forgets, monkeypatch, tmp_path
):
  monkeypatch.setattr(sys, "path", list(sys.path))
  monkeypatch.chdir(tmp_path)
  (tmp_path / "beside").mkdir()
  (tmp_path / "beside" / "scratch_beside.py").write_text("")
  (tmp_path / "scratch_here.py").write_text("")
  text = f"import scratch_beside\nimport scratch_here\n{BASE}"
  (tmp_path / "beside" / "own.gin").write_text(text)
  loaded = config.load("beside/own.gin", root="scratch_root")
  assert {"scratch_beside", "scratch_here"} <= sys.modules.keys()
  assert loaded.text.startswith("import scratch_beside\nimport scratch_here")


@pytest.fixture
def projects(forgets, monkeypatch, tmp_path):
  """Makes projects: a folder of modules, and a gin file that imports some; gives how to load it."""
  monkeypatch.setattr(sys, "path", list(sys.path))
  monkeypatch.chdir(tmp_path)

  def load(name, imports, files):
    for path, text in files.items():
      (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
      (tmp_path / name / path).write_text(text)
    (tmp_path / name / "own.gin").write_text(f"import {imports}\n{BASE}")
    return config.load(tmp_path / name / "own.gin", root="scratch_root")

  return load


@pytest.mark.parametrize(
  ("module", "file"),
  [
    ("scratch_twice", "scratch_twice.py"),
    ("scratch_twice.one", "scratch_twice/one.py"),  # of a package without an __init__.py
    ("scratch_twice.one", "scratch_twice/__init__.py"),
  ],
)
def test_modules_of_one_name_in_two_projects(projects, tmp_path, module, file):
  one = {} if "/" not in file else {"scratch_twice/one.py": ""}
  projects("first", module, {**one, file: ""})
  own, other = (tmp_path / name / file for name in ("second", "first"))
  with pytest.raises(ConfigError) as caught:
    projects("second", module, {**one, file: ""})
  assert f"own.gin:1: import {module} means {own}, but this" in str(caught.value)
  assert f"has imported {other} by that name: start a new process, or rename" in str(caught.value)
  projects("first", module, {})  # whose module is there


def test_a_project_finds_its_own_modules_before_those_of_another(projects, tmp_path):
  projects("first", "scratch_twice_a", {"scratch_twice_a.py": "", "scratch_twice.py": ""})
  files = {"scratch_twice_b.py": "import scratch_twice", "scratch_twice.py": "", "json.py": "1 / 0"}
  projects("second", "scratch_twice_b\nimport json\nimport time", files)
  assert sys.modules["scratch_twice"].__file__ == str(tmp_path / "second" / "scratch_twice.py")


@pytest.mark.slow
def test_a_run_is_found_again_though_its_module_lies_elsewhere(tmp_path):
  project = tmp_path / "project"
  project.mkdir()
  (project / "elsewhere.py").write_text("value = 1\n")
  (project / "mine.gin").write_text("import elsewhere\ninclude 'experiments/catch_stacx.gin'\n")
  code = """
import sys
from pathlib import Path
from selftune.core.record.workdir import Workdir
from selftune.core import config
if sys.argv[1] == "train":
  Path("run").mkdir()
  Workdir(Path("run")).create(config.load("project/mine.gin"), [], 0)
else:
  Workdir(Path("run")).load()
"""
  for what in ("train", "score"):
    command = [sys.executable, "-c", code, what]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_binding_in_the_place_of_a_macro_names_both(tmp_path):
  path = tmp_path / "x.gin"
  path.write_text(f"{BASE}size = 3\nscratch_root.count = %size\n")
  with pytest.raises(ConfigError) as caught:
    config.load(path, ["scratch_root.count = 4"], root="scratch_root")
  assert str(caught.value) == (
    "--bind 'scratch_root.count = 4': scratch_root.count was %size, which nothing else reads now. "
    "Bind the macro instead: size = 4"
  )
  assert config.load(path, ["size = 4"], root="scratch_root").root.count == 4


def test_an_unknown_name_lists_the_experiments(monkeypatch, tmp_path):
  monkeypatch.setattr(reading, "ROOT", tmp_path)
  (tmp_path / "experiments").mkdir()
  (tmp_path / "experiments" / "one_stac.gin").write_text(BASE)
  (tmp_path / "base.gin").write_text("")
  with pytest.raises(ConfigError) as caught:
    config.load("experiments/one_stak", root="scratch_root")
  assert str(caught.value) == (
    "no gin file or experiment 'experiments/one_stak'. Did you mean 'experiments/one_stac'?"
  )
  with pytest.raises(ConfigError, match=r"'other'\. Experiments: experiments/one_stac\."):
    config.load("other", root="scratch_root")
  for name in ("experiments/one_stac", "experiments/one_stac.gin", "one_stac"):
    assert config.load(name, root="scratch_root").root.corrector == VTrace()


def test_includes(monkeypatch, tmp_path):
  """Beside the file first, then packaged; a file included twice does not undo what came between."""
  packaged, mine = tmp_path / "packaged", tmp_path / "mine"
  (packaged / "algos").mkdir(parents=True)
  mine.mkdir()
  monkeypatch.setattr(reading, "ROOT", packaged)
  (packaged / "base.gin").write_text(BASE + "scratch_root.count = 1\nscratch_root.number = 1.0\n")
  (packaged / "algos" / "a.gin").write_text("include 'base.gin'\nscratch_root.count = 2\n")
  (mine / "own.gin").write_text("include 'base.gin'\nscratch_root.flag = True\n")
  (mine / "x.gin").write_text("include 'algos/a.gin'\ninclude 'own.gin'\n")
  root = config.load(mine / "x.gin", root="scratch_root").root
  assert (root.count, root.number, root.flag) == (2, 1.0, True)
  (packaged / "algos" / "a.gin").write_text("include 'base.gin'\nscratch_root.cuont = 2\n")
  with pytest.raises(ConfigError, match=r"algos/a.gin:2: 'scratch_root' has no parameter 'cuont'"):
    config.load(mine / "x.gin", root="scratch_root")
  (mine / "x.gin").write_bytes(b"\xff\xfe")
  with pytest.raises(ConfigError, match=r"cannot read .*x\.gin"):
    config.load(mine / "x.gin", root="scratch_root")


def test_imports_are_saved_with_the_configuration(forgets, load, monkeypatch, tmp_path):
  (tmp_path / "scratch_imported.py").write_text("")
  monkeypatch.syspath_prepend(tmp_path)
  loaded = load("import scratch_imported\n" + BASE)
  assert "import scratch_imported\n" in loaded.text
  assert "import scratch_imported\n" in loaded.operative
  assert load(loaded.operative).root == loaded.root


def test_an_error_that_is_no_users_mistake_keeps_its_type(load):
  @registry.configurable("scratch_buggy")
  @dataclasses.dataclass(frozen=True)
  class Buggy:
    """Has a bug."""

    def __post_init__(self):
      raise KeyError("bug")

  with pytest.raises(KeyError):
    load("", root="scratch_buggy")


@pytest.mark.parametrize(
  "value, annotation, expected",
  [
    (1, int | None, True),
    (None, int | None, True),
    ([1, 2], list[int], True),
    ((1, 2), list[int], False),
    ({"a": (1, 2)}, dict[str, tuple[int, ...]], True),
    ({"a": (1, "b")}, dict[str, tuple[int, ...]], False),
    (True, Literal[1], False),
    (True, bool | int, True),
    ("abc", tuple[str, ...], False),
    (values.Reference((), "entropy"), LossTerm | None, True),
    (values.Reference((), "entropy"), Entropy, True),
    (values.Reference((), "entropy"), VTrace, False),
    ("entropy", LossTerm, False),
    *((value, Fraction, fits) for value, fits in ((0, True), (1.0, True), (1.01, False))),
    *((value, Positive, fits) for value, fits in ((1e-9, True), (0, False), (INF, True))),
    *(
      (value, NotNegative | None, fits) for value, fits in ((0, True), (-1.0, False), (None, True))
    ),
    *((value, Natural, fits) for value, fits in ((0, True), (-1, False), (1.0, False))),
    *((value, tuple[Count, ...], fits) for value, fits in (((1, 2), True), ((1, 0), False))),
    *((NAN, annotation, False) for annotation in (Fraction, Positive, NotNegative)),
    (values.Reference((), "entropy"), Fraction, False),
  ],
)
def test_fits(value, annotation, expected):
  discovery.load_all()
  assert values.fits(value, annotation) is expected

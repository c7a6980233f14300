"""`selftune check`: each fault has its row, sound plugins have none, and its numbers are right."""

import dataclasses
import json
import os

import fakes
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from selftune.core.api import registry
from selftune.core.api.contracts import Network
from selftune.core.api.types import HeadOut, Targets
from selftune.core.checking import agents, numbers, rows, table, target
from selftune.core.commands import cli
from selftune.plugins.metaopt.metagradient import Metagradient
from selftune.plugins.optimizers.rmsprop import RMSProp


@jax.custom_jvp
def doubled(x):
  return 2 * x


doubled.defjvp(lambda primals, tangents: (2 * primals[0], 2.01 * tangents[0]))


@jax.custom_vjp
def reverse_only(x):
  return 2 * x


reverse_only.defvjp(lambda x: (2 * x, ()), lambda _, g: (2 * g,))


@dataclasses.dataclass(frozen=True)
class Checked:
  """A squared value, or as `how` says."""

  how: str = "sound"

  def __call__(self, x):
    squared = (x.value - x.targets.value) ** 2
    loss = {
      "sound": lambda: squared,
      "shape": lambda: jnp.sum(squared, 0),
      "nan": lambda: jnp.log(x.value),
      "gradient": lambda: doubled(squared),
      "reverse": lambda: reverse_only(squared),
      "stopped": lambda: (x.value - jax.lax.stop_gradient(x.targets.value)) ** 2,
      "error": lambda: squared @ jnp.ones(7),
      "none": lambda: None,
      "exit": lambda: exit(0),
      "rounded": lambda: squared.astype(jnp.bfloat16).astype(x.value.dtype),
    }[self.how]()
    return None if loss is None else (loss, {"squared": squared})


@dataclasses.dataclass(frozen=True)
class CheckedOptimizer:
  """Descent that counts; at first its count is of a weak type, or as `how` says."""

  how: str = "weak"

  def init(self, params):
    return jnp.asarray(0.0) if self.how == "weak" else jnp.zeros((), jnp.float32)

  def update(self, grads, opt_state, params, progress):
    new = jax.tree.map(lambda x, g: x - 0.1 * g, params, grads)
    return new, opt_state + jnp.ones((), jnp.float32)


@dataclasses.dataclass(frozen=True)
class CheckedNetwork:
  """A recurrent network that does not clear its state."""

  def build(self, spec, policy_size, heads):
    def unroll(params, timestep, core_state, gamma):
      shape = (len(gamma), *timestep.first.shape)
      value = jnp.ones(shape) * params["w"] * core_state[None, None]
      return HeadOut(jnp.zeros((*shape, policy_size)) + params["w"], value), core_state + 1

    return Network(lambda key: {"w": jnp.ones(())}, jnp.zeros, unroll)


@dataclasses.dataclass(frozen=True)
class CheckedCorrector:
  """Targets whose gamma acts twice, once unseen by its derivative."""

  gamma: float = 0.9

  def __call__(self, x):
    return Targets(jax.lax.stop_gradient(x.value[:-1]), x.reward), {}


@dataclasses.dataclass(frozen=True)
class CheckedExploit:
  """Every run that takes part copies the worst."""

  def __call__(self, rng, scores):
    runs = np.arange(len(scores))
    here = runs[np.isfinite(scores)]
    return np.where(np.isnan(scores), runs, here[np.argmin(scores[here])])


@dataclasses.dataclass(frozen=True)
class CheckedExplore:
  """Settings of the first run alone."""

  memory: int = 1

  def check(self, numbers):
    pass

  def __call__(self, rng, x):
    return {name: values[:1] for name, values in x.first.items()}


FAKES = {
  "checked_exploit": ("exploit", CheckedExploit),
  "checked_explore": ("explore", CheckedExplore),
  "checked": ("loss", Checked),
  "checked_optimizer": ("optimizer", CheckedOptimizer),
  "checked_network": ("network", CheckedNetwork),
  "checked_corrector": ("corrector", CheckedCorrector),
}


@pytest.fixture
def known(monkeypatch):
  monkeypatch.setattr(fakes, "PLUGINS", fakes.PLUGINS | FAKES)
  fakes.register(monkeypatch)


def checked(name, *bindings, of=None):
  """The rows of a plugin alone; those of the agent around it are not made."""
  found = target.find(name, bindings).checks
  return table.make([c for c in found if c.part == (of or found[0].part)])


FAULTS = {
  "shape": ("shapes", "loss @checked() gave float32 [4] as its loss; wanted: float32 [T, B] ="),
  "none": ("shapes", "loss @checked() returned None; wanted: (loss [T, B], metrics)."),
  "error": ("shapes", "TypeError: dot_general requires contracting dimensions"),
  "exit": ("shapes", "it calls sys.exit(0)"),
  "nan": ("finite numbers", "its loss is not finite: "),
  "gradient": ("derivative by inputs", "differs from central differences"),
  "stopped": ("derivative by inputs", "differs from central differences"),
  "reverse": ("derivative by inputs", "forward-mode autodiff (jvp)"),
}


@pytest.mark.parametrize("how", FAULTS)
def test_a_faulty_loss_has_its_row(known, how):
  check, words = FAULTS[how]
  found = checked("checked", f"checked.how = '{how}'")
  bad = [row for row in found if row.verdict == rows.FAILED]
  assert [row.check for row in bad] == [check]
  assert words in bad[0].note
  later = found[found.index(bad[0]) + 1 :]
  assert all(row.note == "not reached: loss @checked() failed" for row in later)
  assert all(row.verdict == rows.OK for row in found[: found.index(bad[0])])
  if how == "gradient":  # 2.01 in place of 2
    assert 0.001 < bad[0].number < 0.006
  if how == "error":
    assert f"({__file__}:" in bad[0].note


def test_a_sound_loss_and_one_that_rounds(known):
  found = checked("checked")
  assert [row.verdict for row in found] == [rows.OK] * 4
  assert 0 < found[-1].number < 1e-7
  (*_, derivative) = checked("checked", "checked.how = 'rounded'")
  assert derivative.verdict == rows.SKIPPED and "computed in bfloat16" in derivative.note
  (*_, derivative) = checked("checked_optimizer", "checked_optimizer.how = 'float32'")
  assert derivative.verdict == rows.OK


@pytest.mark.parametrize(
  "name, check, words",
  [
    ("checked_optimizer", "one compilation", "is compiled anew at call 2: "),
    ("checked_network", "first clears state", "still depends on the core state"),
    ("checked_corrector", "derivative by inputs", "its derivative by log_is, value differs"),
    ("checked_exploit", "parents are better", "a copy's parent is no better: parents [0, 0,"),
    ("checked_explore", "settings", "gave 'a.rate': float32 [1]; wanted: finite numbers [8]"),
  ],
)
def test_other_faulty_plugins(known, name, check, words):
  found = checked(name)
  bad = rows.first_failure(found)
  assert bad.check == check and words in bad.note
  assert {row.verdict for row in found[: found.index(bad)]} <= {rows.OK}


def test_an_environment_on_the_device(known):
  found = checked("two_colors", "two_colors.counted = 7")
  assert [(row.check, row.verdict) for row in found] == [
    (name, rows.OK)
    for name in ("shapes", "finite numbers", "ends and starts", "equal seeds", "one compilation")
  ]
  assert found[2].note == "8 episodes ended"  # of two environments, in 32 steps


@dataclasses.dataclass(frozen=True)
class Wrong(Metagradient):
  """Its metagradient of one number is a hundredth too large."""

  def step(self, fns, state, batch, phase=0):
    state, metrics = super().step(fns, state, batch, phase)
    return state, {
      name: x * 1.01 if name == "metagrad/value.cost/0" else x for name, x in metrics.items()
    }


def test_a_metagradient_that_is_wrong_has_its_row():
  tune = ("leaky_vtrace.gamma", "value.cost")
  agent = small.agent(
    Wrong(tune=tune, eta_init=1.0),
    network=small.SmallNetwork(embedded=False),
    optimizer=RMSProp(learning_rate=0.1, eps=1e-2),
  )
  subject = agents.Subject(agent, small.SPEC, 3, 4, 4, 50)
  found = table.make(list(agents.metagradient(agent, lambda: subject, ())))
  assert [(row.part, row.verdict) for row in found] == [
    ("metagradient of leaky_vtrace.gamma", rows.OK),
    ("metagradient of value.cost", rows.FAILED),
    ("metagradient", rows.OK),
  ]
  np.testing.assert_allclose(found[1].number, 0.01, rtol=0.01)
  assert found[0].number < 1e-5 and "it is logged as" in found[1].note


def test_what_is_no_number_agrees_with_nothing():
  for pairs in ([(1.0, 1.0), (np.nan, 1.0)], [(np.nan, 1.0), (1.0, 1.0)]):
    with pytest.raises(rows.Failed, match="it is logged as nan"):
      agents._agree(pairs, 1e-3)


@jax.custom_jvp
def forwards_nan(x):
  return x**2


forwards_nan.defjvp(lambda x, dx: (x[0] ** 2, jnp.nan * dx[0]))


def test_a_derivative_that_is_no_number_is_wrong():
  with jax.enable_x64(True), pytest.raises(rows.Failed, match="it differs"):
    numbers.derivative(lambda x: forwards_nan(x), np.ones(2), "it")


@pytest.mark.parametrize("name", ["fixed", "ac_lambda"])
def test_a_meta_optimiser_alone(command, name):
  code, out, _ = command(name)
  assert code == 0 and f"metaopt @{name}()" in out and "not reached" not in out


def test_every_plugin_has_a_place_to_be_checked_in():
  for kind, of_kind in registry.plugins().items():
    for name in of_kind if kind != "env" else ():  # those need their libraries
      assert target.find(name, ()).checks


def test_a_derivative_is_of_both_modes():
  with jax.enable_x64(True):
    x = {"a": np.linspace(0, 1, 3), "b": np.full(3, 2.0)}
    found = numbers.derivative(lambda x: jnp.sin(x["a"]) * x["b"], x, "it")
  assert found.number < 1e-7


@pytest.fixture
def command(capfd, monkeypatch):
  monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"])

  def run(*arguments):
    capfd.readouterr()
    code = cli.main(["check", *map(str, arguments)])
    return code, *capfd.readouterr()

  return run


LOSS_FILE = """
import dataclasses
import jax.numpy as jnp
from selftune import LossInputs, register, tunable, SCALE

@register("loss", "{name}")
@dataclasses.dataclass(frozen=True)
class Mine:
  \"\"\"A loss of a third party.\"\"\"
  cost: float = tunable(0.1, SCALE)

  def __call__(self, x: LossInputs):
    return {expression}, {{}}
"""


def test_a_file_with_a_fault_from_the_command_line(command, tmp_path):
  path = tmp_path / "scratch_mine.py"
  path.write_text(LOSS_FILE.format(name="scratch_mine", expression="self.cost * jnp.mean(x.value)"))
  code, out, err = command(path)
  assert code == 1 and "Traceback" not in err
  assert err.splitlines()[-1] == (
    f"selftune: {path}: loss @scratch_mine(), shapes: loss @scratch_mine() gave float32 [] as its "
    "loss; wanted: float32 [T, B] = [4, 4]."
  )
  header, first, *rest = out.splitlines()
  assert header.split() == ["what", "check", "verdict", "number"]
  assert first.split()[:4] == ["loss", "@scratch_mine()", "shapes", "FAILED"]
  assert all("not reached: loss @scratch_mine() failed" in line for line in rest)
  code, out, _ = command("scratch_mine", "--json")
  document = json.loads(out)
  assert code == 1 and out.count("\n") == 1 and document["ok"] is False
  assert document["failed"]["check"] == "shapes" == document["rows"][0]["check"]


def test_mistakes(command, known, tmp_path):
  (tmp_path / "empty_of_plugins.py").write_text("")
  (tmp_path / "scratch_broken.py").write_text("import nothing_of_that_name")
  for given, words in (
    (["experiments/catch_stax"], "no gin file or experiment"),
    (["entrop"], "no experiment and no plugin 'entrop'. Did you mean 'entropy'?"),
    ([tmp_path / "absent.py"], "there is no file"),
    ([tmp_path / "empty_of_plugins.py"], "registers no plugin"),
    ([tmp_path / "scratch_broken.py"], "ModuleNotFoundError: No module named 'nothing_of"),
    (["entropy", "--bind", "entropy.cots = 1"], "'entropy' has no parameter 'cots'"),
  ):
    code, out, err = command(*given)
    assert (code, out) == (2, ""), given
    assert err.startswith("selftune: ") and err.count("\n") == 1 and words in err, err


def test_what_a_configuration_names():
  found = target.find("experiments/snake_outer_critic", ())
  parts = list(dict.fromkeys(check.part for check in found.checks))
  assert parts == [
    "env @jumanji()",
    "network @grid_cnn()",
    "corrector @gae(), objective.corrector",
    "corrector @gae(), outer.corrector",
    "loss @policy_gradient()",
    "loss @value()",
    "loss @entropy()",
    "optimizer @rmsprop()",
    "writer @jsonl()",
    "writer @terminal()",
    "metaopt @metagradient()",
    "metagradient of gae.gamma",
    "metagradient",
  ]


def test_the_table_says_what_was_first():
  made = [
    rows.Row("loss @a()", "shapes", rows.OK, None, "x" * 80),
    rows.Row("loss @a()", "derivative", rows.FAILED, 0.5, "it is wrong"),
    rows.Row("env @b()", "shapes", rows.SKIPPED, None, "why"),
  ]
  assert table.text(made).splitlines() == [
    "what       check       verdict  number",
    f"loss @a()  shapes      ok                {'x' * 57}...",
    "           derivative  FAILED   5.0e-01  it is wrong",
    "env @b()   shapes      -                 why",
  ]
  assert table.summary("t", made) == "t: loss @a(), derivative: it is wrong (5.0e-01)"
  assert table.summary("t", [made[0], made[2]]) == "t: 1 checks hold, 1 not made."


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["catch_stacx", "metatrace_mountain_car", "two_colors"])
def test_packaged_experiments_hold(command, experiment):
  code, out, err = command(f"experiments/{experiment}")
  assert code == 0, out + err
  assert out.splitlines()[-1].startswith(f"experiments/{experiment}: ")


@pytest.mark.long
@pytest.mark.slow
def test_a_cycle_of_everything_holds(command):
  """K updates, an outer critic, a bootstrapped target and a context, all at once."""
  code, out, err = command(
    "experiments/two_colors",
    *("--bind", "outer.critic = 'own'", "--bind", "metagradient.inner_updates = 2"),
    *("--bind", "metagradient.bootstrap = @bootstrap()", "--bind", "bootstrap.steps = 2"),
    *("--bind", "metagradient.context = @context()", "--bind", "mlp.hidden = (8,)"),
  )
  assert code == 0, out + err
  assert "metagradient                  norm by all" in out

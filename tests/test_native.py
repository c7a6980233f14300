"""Machine code of AC(lambda): it is the JAX form, step by step, and steps aside where it cannot be.

Both draw the same random numbers, so that a run is the same run: actions, ends of episodes, and to
float32's rounding every number of the learner.
"""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_runs import SHORT, VARIED, host, online

from selftune.core.api import native
from selftune.core.config import discovery
from selftune.core.experiment import Agent
from selftune.core.runs.device import NATIVE_STEPS, Runs
from selftune.core.runs.settings import Members
from selftune.plugins.envs.drifting_mountain_car import DriftingMountainCar
from selftune.plugins.metaopt.ac_lambda import AcLambda
from selftune.plugins.networks.linear import Linear
from selftune.plugins.networks.mlp import Mlp
from selftune.plugins.networks.tile_coding import TileCoding
from selftune.plugins.tuners.autotidbd import AutoTidbd
from selftune.plugins.tuners.constant_step import ConstantStep
from selftune.plugins.tuners.metatrace import Metatrace
from selftune.plugins.tuners.metatrace_mixed import MetatraceMixed
from selftune.plugins.tuners.metatrace_vector import MetatraceVector
from selftune.plugins.tuners.nosid import Nosid
from selftune.plugins.tuners.obgd import ObGD
from selftune.plugins.tuners.sid import Sid
from selftune.plugins.tuners.tidbd import Tidbd

discovery.load_all()
needs_compiler = pytest.mark.skipif(native.compiler() is None, reason="there is no C++ compiler")
DRIFTING = DriftingMountainCar(max_steps=11, drift=1e-4)  # a flip in six steps
TUNERS = {
  "constant": ConstantStep(),
  "metatrace": Metatrace(mu=0.01),
  "metatrace_raw": Metatrace(mu=1e-3, normalised=False),
  "sid": Sid(mu=1e-3),
  "nosid": Nosid(mu=0.01),
  "nosid_step": Nosid(mu=0.01, normaliser="step"),
  "obgd": ObGD(),
  "vector": MetatraceVector(mu=0.01),
  "vector_raw": MetatraceVector(mu=1e-4, normalised=False),
  "vector_long": MetatraceVector(mu=0.1),
  "mixed": MetatraceMixed(mu=0.01),
  "mixed_raw": MetatraceMixed(mu=1e-4, normalised=False),
  "tidbd": Tidbd(),
  "autotidbd": AutoTidbd(),
}
QUICK = (("metatrace", "car"), ("mixed", "drifting"), ("tidbd", "car"))
CASES = [
  (tuner, env) if (tuner, env) in QUICK else pytest.param(tuner, env, marks=pytest.mark.slow)
  for tuner in TUNERS
  for env in ("car", "drifting")
]


def make(tuner, env, machine_code, varied=VARIED, **limits):
  plugin, network = (SHORT, TileCoding()) if env == "car" else (DRIFTING, Linear())
  members = Members(online(tuner, network), (5, 6, 7), varied, **limits)
  return Runs(members, plugin, jax.devices()[:1], fuse=False, native=machine_code)


def assert_same(found, expected, tolerance):
  """Whole numbers are equal; of others the largest difference is a share of the largest number."""

  def same(path, a, e):
    assert a.dtype == e.dtype and a.shape == e.shape, path
    if np.issubdtype(a.dtype, np.floating) and a.size:
      scale = max(np.abs(e).max(), 1e-6)
      assert np.abs(a - e).max() <= tolerance * scale, jax.tree_util.keystr(path)
    else:
      np.testing.assert_array_equal(a, e, err_msg=jax.tree_util.keystr(path))

  jax.tree_util.tree_map_with_path(same, found, expected)


@needs_compiler
@pytest.mark.parametrize("tuner, env", CASES)
def test_it_is_the_jax_form(tuner, env):
  """Three settings, one without entropy: five calls, each from where JAX came to."""
  ours, jaxs = (make(TUNERS[tuner], env, form) for form in (True, False))
  assert ours.form == "machine code"
  states, ended = jaxs.init(), 0
  for _ in range(5):
    found, found_ends = ours.advance(jax.tree.map(jnp.copy, states), 1)
    states, ends = jaxs.advance(states, NATIVE_STEPS)
    jax.tree.map(lambda a, e: np.testing.assert_array_equal(a, np.asarray(e)), found_ends, ends)
    a, e = host(found), host(states)
    # At a reset the form for many step sizes has ended the traces already.
    kept = ~np.asarray(e.timestep.first)
    assert_same(without_traces(a, kept), without_traces(e, kept), 2e-4)
    ended += found_ends.ended.sum()
  assert ended >= 18
  assert np.abs(e.learner.params["policy"]).max() > 0.01


def without_traces(states, kept):
  """The states, but that traces of runs at a reset are 0."""
  meta = states.learner.meta_state
  cut = lambda x: np.where(kept.reshape(-1, *[1] * (x.ndim - 1)), x, 0)
  tuner = meta.tuner
  if hasattr(tuner, "own"):
    tuner = tuner._replace(own=tuner.own._replace(trace=cut(tuner.own.trace)))
  meta = meta._replace(trace=cut(meta.trace), tuner=tuner)
  return states._replace(learner=states.learner._replace(meta_state=meta))


@needs_compiler
@pytest.mark.parametrize(
  "tuner", ["constant", "metatrace", pytest.param("mixed", marks=pytest.mark.slow)]
)
def test_calls_of_any_length_are_one_run(tuner):
  """Traces, written when and lazily, and packed arrays come and go: over long episodes too."""
  members = Members(
    online(TUNERS[tuner], TileCoding()), (5, 6), {"ac_lambda.alpha": (2**-4, 2**-8)}
  )
  runs = Runs(members, SHORT.__class__(max_steps=90), jax.devices()[:1], native=True)
  once, ends = runs.advance(runs.init(), 8)
  states, parts = runs.init(), []
  for iterations in (1, 4, 3):
    states, some = runs.advance(states, iterations)
    parts.append(some)
  assert states.learner.failure.tolist() == [-1, -1]
  np.testing.assert_array_equal(np.concatenate([x.length for x in parts], 1), ends.length)
  assert_same(host(states), host(once), 1e-3)


@needs_compiler
def test_runs_stand_still_where_they_end():
  runs = make(Metatrace(), "car", True, max_episodes=3)
  states, ends = runs.advance(runs.init(), 5)
  assert states.finished.tolist() == [3] * 3 and states.env_steps.tolist() == [36] * 3
  assert ends.ended.sum() == 9
  before = host(states)
  states, ends = runs.advance(states, 2)
  assert_same(host(states), before, 0)
  assert not ends.ended.any()
  runs = make(MetatraceMixed(), "drifting", True, max_env_steps=29)
  states, _ = runs.advance(runs.init(), 5)
  assert states.env_steps.tolist() == [29] * 3 and states.finished.tolist() == [2] * 3
  before = host(states)
  assert_same(host(runs.advance(states, 2)[0]), before, 0)


@needs_compiler
@pytest.mark.parametrize("tuner", ["constant", "vector"])
def test_a_diverged_run_stands_still_and_the_others_go_on(tuner):
  varied = {"ac_lambda.alpha": (2**-6, 1e30, 2**-7)}
  if tuner == "vector":
    varied["metatrace_vector.mu"] = (0.01, 0.0, 0.01)
  tuner = MetatraceVector(normalised=False) if tuner == "vector" else TUNERS[tuner]
  runs = make(tuner, "car", True, varied)
  states, _ = runs.advance(runs.init(), 4)
  failure = np.asarray(states.learner.failure)
  assert failure[1] >= 0 and failure[0] == failure[2] == -1
  assert states.env_steps.tolist()[0] == 64 > states.env_steps.tolist()[1]


@needs_compiler
@pytest.mark.parametrize(
  "tuner", ["metatrace", *(pytest.param(n, marks=pytest.mark.slow) for n in ("vector", "mixed"))]
)
def test_a_step_that_overflows_ends_the_run_as_in_jax(tuner):
  varied = {"ac_lambda.alpha": (2**-6, 1e38, 2**-7)}
  for machine_code in (True, False):
    runs = make(TUNERS[tuner], "car", machine_code, varied)
    states, _ = runs.advance(runs.init(), 1 if machine_code else NATIVE_STEPS)
    assert (np.asarray(states.learner.failure) >= 0).tolist() == [False, True, False]


@pytest.mark.parametrize(
  "agent, reason",
  [
    (Agent(network=Mlp(), metaopt=AcLambda(Metatrace())), "network @mlp() has no form in C++."),
    (Agent(TileCoding(), metaopt=AcLambda(Metatrace(), lambda_=0.0)), "Traces end at once"),
  ],
)
def test_where_there_is_none_jax_is_taken(agent, reason):
  runs = Runs(Members(agent, (0, 1), {}), SHORT, jax.devices()[:1], native=True)
  assert runs.form.startswith("JAX: ") and reason in runs.form


def test_without_a_compiler_jax_is_taken(monkeypatch, tmp_path):
  monkeypatch.setattr(native, "compiler", lambda: None)
  assert "no C++ compiler" in make(Metatrace(), "car", True).form
  monkeypatch.setattr(native, "compiler", lambda: "/bin/false")
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  runs = make(Metatrace(), "car", True)
  assert runs.form.startswith("JAX: /bin/false failed")
  assert not [x for x in tmp_path.rglob("*") if x.suffix == ".so"]
  runs.advance(runs.init(), 1)


@needs_compiler
def test_what_is_compiled_is_kept_for_equal_sources_alone(monkeypatch, tmp_path):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  for value in (1, 1, 2):
    library = native.library(f'extern "C" int f() {{ return {value}; }}', ())
    assert library.f() == value
  assert len(list(tmp_path.rglob("*.so"))) == 2
  with contextlib.suppress(OSError):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "cannot be kept" in native.library("", ())


@needs_compiler
def test_where_nobody_has_a_home_jax_is_taken(monkeypatch):
  def homeless(path):
    raise RuntimeError("Could not determine home directory.")

  monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
  monkeypatch.setattr(native.Path, "expanduser", homeless)
  assert "set XDG_CACHE_HOME" in native.library("", ())

"""AC(lambda) and its tuners: against loops in NumPy, h against differences, settings as leaves."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import metatrace_reference as reference
import numpy as np
import pytest
from dm_env import specs
from jax.flatten_util import ravel_pytree

from selftune.core.agent.functions import Functions
from selftune.core.api import registry
from selftune.core.api.types import EnvSpec, LearnerState, TimeStep, Trajectory
from selftune.core.config import discovery
from selftune.core.experiment import Agent
from selftune.plugins.metaopt.ac_lambda import AcLambda
from selftune.plugins.networks.linear import Linear
from selftune.plugins.networks.mlp import Mlp
from selftune.plugins.tuners.autotidbd import AutoTidbd
from selftune.plugins.tuners.constant_step import ConstantStep
from selftune.plugins.tuners.metatrace import Metatrace
from selftune.plugins.tuners.metatrace_mixed import MetatraceMixed
from selftune.plugins.tuners.metatrace_vector import MetatraceVector
from selftune.plugins.tuners.nosid import Nosid
from selftune.plugins.tuners.obgd import ObGD
from selftune.plugins.tuners.sid import Sid
from selftune.plugins.tuners.tidbd import Tidbd

ACTIONS = 3
STREAM = reference.stream(1000, 6, ACTIONS)
SETTINGS = reference.Settings()
RAW = dataclasses.replace(SETTINGS, mu=1e-3)  # unnormalised steps of beta are larger
CASES = {
  "constant": (ConstantStep(), reference.Constant(), SETTINGS),
  "metatrace": (Metatrace(), reference.Scalar(), SETTINGS),
  "metatrace_raw": (Metatrace(normalised=False), reference.Scalar(False), RAW),
  "vector": (MetatraceVector(), reference.Vector(), SETTINGS),
  "vector_raw": (MetatraceVector(normalised=False), reference.Vector(False), SETTINGS),
  "mixed": (MetatraceMixed(), reference.Mixed(), SETTINGS),
  "mixed_raw": (MetatraceMixed(normalised=False), reference.Mixed(False), RAW),
  "sid": (Sid(), reference.Sid(), RAW),
  "nosid": (Nosid(), reference.Nosid(), SETTINGS),
  "nosid_step": (
    Nosid(normaliser="step"),
    reference.Nosid(),
    dataclasses.replace(SETTINGS, normaliser="step"),
  ),
  "obgd": (ObGD(), reference.ObGD(), dataclasses.replace(SETTINGS, alpha=0.2)),
  "tidbd": (Tidbd(), reference.Tidbd(), SETTINGS),
  "autotidbd": (AutoTidbd(), reference.AutoTidbd(), dataclasses.replace(SETTINGS, alpha=0.2)),
}


def some_slow(quick, rest=tuple(CASES)):
  """All of them as parameters, all but the quick ones marked slow."""
  slow = [pytest.param(name, marks=pytest.mark.slow) for name in rest if name not in quick]
  return [*quick, *slow]


def build(metaopt, features=6, network=None, actions=ACTIONS, **fields):
  spec = EnvSpec(specs.Array((features,), np.float32), specs.DiscreteArray(actions))
  return Functions(Agent(network=network or Linear(), metaopt=metaopt, **fields), spec)


def transitions(s):
  """The stream as trajectories [T, 1 + 1, 1]."""
  pairs = lambda x: np.stack([x[:-1], x[1:]], 1)[:, :, None]
  n = len(s.action)
  return Trajectory(
    TimeStep(pairs(s.features), pairs(s.reward), pairs(s.discount), pairs(s.first)),
    s.action[:, None, None].astype(np.int32),
    np.zeros((n, 1, 1, ACTIONS)),
    (),
    np.zeros((n, 1), np.int32),
  )


def first_state(metaopt, fns, params, batch):
  state = LearnerState(params, (), (), jnp.int32(0), (), jnp.int32(-1))
  return state._replace(meta_state=metaopt.init(fns, state, batch))


def learn(metaopt, agent, s, params=None, alpha=None):
  """Weights after every step of the stream, and the log step sizes."""
  fns = agent
  batches = transitions(s)
  first = jax.tree.map(lambda x: x[0], batches)
  if params is None:
    params = agent.network.init(jax.random.key(0))
    params = jax.tree.map(lambda x: x.astype(float), params)
  if alpha is not None:
    metaopt = dataclasses.replace(metaopt, alpha=alpha)
  state = first_state(metaopt, fns, params, first)

  def body(state, batch):
    state, _ = metaopt.step(fns, state, batch)
    return state, (state.params, metaopt.tuner.beta(state.meta_state.tuner))

  state, (weights, betas) = jax.lax.scan(body, state, batches)
  return state, weights, betas


def table(params):
  """Parameters of a linear network over time, as the reference has them: [T, F, 1 + A]."""
  value, policy = (np.asarray(params[name])[:, 0] for name in ("value", "policy"))
  return np.concatenate([value[..., None], policy.swapaxes(1, 2)], axis=-1)


def metaopt_of(tuner, settings):
  names = {f.name for f in dataclasses.fields(tuner)} & {"mu", "kappa", "tau"}
  tuner = dataclasses.replace(tuner, **{name: getattr(settings, name) for name in names})
  return AcLambda(tuner, settings.alpha, settings.gamma, settings.lambda_, settings.psi)


@pytest.mark.parametrize("name", some_slow(["metatrace", "vector", "mixed", "nosid", "autotidbd"]))
def test_equals_the_loop_over_a_thousand_steps(name):
  tuner, expected, settings = CASES[name]
  weights, alphas = reference.run(STREAM, expected, settings, ACTIONS)
  with jax.enable_x64(True):
    metaopt = metaopt_of(tuner, settings)
    _, found, betas = jax.jit(lambda: learn(metaopt, build(metaopt), STREAM))()
  found = table(found)
  scale = np.max(np.abs(weights))
  assert scale > 0.05 and np.isfinite(scale)  # something was learned
  np.testing.assert_allclose(found, weights[1:], rtol=1e-9, atol=1e-10 * scale)
  if alphas.ndim == 2:
    policy, value = np.split(np.asarray(betas), [6 * ACTIONS], axis=1)  # as ravel_pytree has them
    shape = (-1, 1, ACTIONS, 6)
    betas = table({"value": value[:, None], "policy": policy.reshape(shape)}).reshape(alphas.shape)
  moved = ~np.isnan(alphas.reshape(len(alphas), -1)[:, 0])
  np.testing.assert_allclose(np.exp(betas)[moved], alphas[moved], rtol=1e-9)
  if name != "constant":
    assert np.nanmax(np.abs(np.log(alphas / settings.alpha))) > 0.01  # something was tuned


def test_traces_end_where_a_life_is_lost():
  """There the discount is 0, and no new episode starts."""
  metaopt = AcLambda(Metatrace())
  agent = build(metaopt)
  fns, params = agent, agent.network.init(jax.random.key(0))
  batch = jax.tree.map(lambda x: x[0], transitions(STREAM))
  trace = jnp.ones(len(ravel_pytree(params)[0]))
  for discount, kept in ((1.0, 1), (0.0, 0)):
    timestep = batch.timestep
    before = np.full_like(timestep.discount, discount)
    timestep = timestep._replace(discount=before, first=np.zeros_like(timestep.first))
    x = metaopt.inputs(fns, params, trace, batch._replace(timestep=timestep))
    assert x.decay == pytest.approx(kept * metaopt.gamma * metaopt.lambda_)
    np.testing.assert_allclose(x.trace, x.decay * trace + x.grad_u, rtol=1e-6)
    np.testing.assert_array_equal(x.trace_tm1, kept * trace)


def test_every_tuner_is_compared():
  discovery.load_all()
  tuners = {cls for cls in registry.plugins()["tuner"].values()}
  ours = {cls for cls in tuners if cls.__module__.startswith("selftune")}
  assert {type(tuner) for tuner, _, _ in CASES.values()} == ours


@pytest.mark.slow
def test_the_effective_step_size_is_bounded_where_it_must_be():
  """The cases above must meet line 13, or they would not test it."""
  for name in ("metatrace", "vector", "mixed"):
    tuner, expected, settings = CASES[name]
    settings = dataclasses.replace(settings, alpha=0.8)
    weights, alphas = reference.run(STREAM, expected, settings, ACTIONS)
    assert np.nanmax(alphas) < 0.8
    with jax.enable_x64(True):
      metaopt = metaopt_of(tuner, settings)
      _, found, _ = jax.jit(lambda m=metaopt: learn(m, build(m), STREAM))()
    found = table(found)
    np.testing.assert_allclose(found, weights[1:], rtol=1e-8, atol=1e-9)


# h is the derivative of w with respect to beta, exactly, where nothing was approximated: values
# linear in the features, in the few steps before the policy has changed what is learned.


def flat(params):
  return jax.flatten_util.ravel_pytree(params)[0]


def values_only(steps):
  """A stream whose action is always the only one: the policy has nothing to learn."""
  s = reference.stream(steps, 4, 1, seed=3)
  s.first[1:], s.discount[:] = False, 1.0
  return s


@pytest.mark.parametrize("steps", [2, 12])
def test_scalar_h_is_the_derivative_of_w(steps):
  """With z not depending on w, h is exact at any horizon."""
  s = values_only(steps)
  with jax.enable_x64(True):
    metaopt = AcLambda(Metatrace(mu=0.0), 0.1, 0.9, 0.8, 0.0)
    agent = build(metaopt, 4, actions=1)
    final = jax.jit(lambda beta: learn(metaopt, agent, s, alpha=jnp.exp(beta))[0])
    beta, move = jnp.log(jnp.asarray(0.1)), 1e-5
    h = final(beta).meta_state.tuner.h
    up, down = (flat(final(beta + m).params) for m in (move, -move))
  assert np.max(np.abs(h)) > 0.01
  np.testing.assert_allclose(h, (up - down) / (2 * move), rtol=1e-6, atol=1e-9)


def test_vector_h_is_the_derivative_of_each_w_by_its_own_beta():
  """Exact for the first two steps: later w_i reaches w_i through other parameters."""
  s = values_only(2)
  with jax.enable_x64(True):
    metaopt = AcLambda(MetatraceVector(mu=0.0), 0.1, 0.9, 0.8, 0.0)
    agent = build(metaopt, 4, actions=1)
    fns = agent
    batches = transitions(s)

    def final(beta):
      params = jax.tree.map(lambda x: x.astype(float), agent.network.init(jax.random.key(0)))
      state = first_state(metaopt, fns, params, jax.tree.map(lambda x: x[0], batches))
      tuner = state.meta_state.tuner
      tuner = tuner._replace(own=tuner.own._replace(beta=beta))
      state = state._replace(meta_state=state.meta_state._replace(tuner=tuner))
      for t in range(2):
        state, _ = metaopt.step(fns, state, jax.tree.map(lambda x, t=t: x[t], batches))
      return state

    beta = jnp.log(jnp.linspace(0.05, 0.2, 8))
    derivative = jax.jit(jax.jacfwd(lambda beta: flat(final(beta).params)))(beta)
    h = jax.jit(final)(beta).meta_state.tuner.h
  assert np.max(np.abs(h)) > 0.01
  np.testing.assert_allclose(h, np.diagonal(derivative), rtol=1e-6, atol=1e-12)


# Settings are leaves: many of them share one compiled update; any network learns.


@pytest.mark.parametrize("name", some_slow(["metatrace"], ["mixed", "nosid", "obgd", "autotidbd"]))
def test_settings_are_vmappable(name):
  tuner, _, settings = CASES[name]
  short = reference.stream(60, 6, ACTIONS, seed=1)
  fields = [f for f in ("mu", "kappa", "tau") if f in {g.name for g in dataclasses.fields(tuner)}]

  def final(values):
    own = {f: values[f] for f in fields}
    common = {k: v for k, v in values.items() if k not in own}
    metaopt = AcLambda(dataclasses.replace(tuner, **own), **common)
    return flat(learn(metaopt, build(metaopt), short)[0].params)

  values = {"alpha": settings.alpha, "gamma": 0.9, "lambda_": 0.8, "entropy": 0.05}
  values |= {f: getattr(settings, f) for f in fields}
  rows = {k: np.array([v, v / 2, v]) for k, v in values.items()}
  with jax.enable_x64(True):
    together = jax.jit(jax.vmap(final))(rows)
    for k in range(3):
      alone = jax.jit(functools.partial(final, {n: float(v[k]) for n, v in rows.items()}))()
      np.testing.assert_allclose(together[k], alone, rtol=1e-12, atol=1e-14)
  assert not np.allclose(together[0], together[1])


@pytest.mark.parametrize("name", some_slow(["metatrace"]))
def test_a_network_with_hidden_layers_learns(name):
  """In float32, with finite numbers, and nothing happens at a reset step."""
  tuner, _, settings = CASES[name]
  metaopt = metaopt_of(tuner, settings)
  agent = build(metaopt, 6, Mlp(hidden=(8,)))
  s = reference.stream(3, 6, ACTIONS)
  s.first[:] = [True, False, True, False]
  params = agent.network.init(jax.random.key(0))
  _, weights, _ = jax.jit(lambda: learn(metaopt, agent, s, params))()
  rows = [
    jax.flatten_util.ravel_pytree(jax.tree.map(lambda x, i=i: x[i], weights))[0] for i in (0, 1, 2)
  ]
  assert all(np.all(np.isfinite(row)) and row.dtype == np.float32 for row in rows)
  np.testing.assert_array_equal(rows[0], rows[1])
  assert np.any(rows[0] != rows[2])


def test_it_learns_from_one_stream():
  with pytest.raises(ValueError, match=r"train.unroll_length = 1 and train.num_envs = 1"):
    metaopt = AcLambda(ConstantStep())
    fns = build(metaopt)
    batch = transitions(STREAM)
    first_state(metaopt, fns, {"value": jnp.zeros(1)}, batch._replace(action=np.zeros((1, 2))))


@pytest.mark.parametrize("fields", [dict(heads=2), dict(behaviour="average")])
def test_it_learns_one_head(fields):
  metaopt = AcLambda()
  fns = build(metaopt, **fields)
  batch = jax.tree.map(lambda x: x[0], transitions(STREAM))
  with pytest.raises(ValueError, match=r"ac_lambda learns one head.* write agent.heads = 1"):
    first_state(metaopt, fns, {"value": jnp.zeros(1)}, batch)


def test_groups_are_logged_of_arrays_that_they_reach():
  groups = {"all": (0, 6), "last": (5, 9), "beyond": (6, 9)}
  metaopt = AcLambda(MetatraceVector(), groups=groups)
  fns = build(metaopt)
  batch = jax.tree.map(lambda x: x[0], transitions(STREAM))
  params = fns.network.init(jax.random.key(0)) | {"scale": jnp.ones(())}
  rows = metaopt.describe(first_state(metaopt, fns, params, batch))
  found = {name for name in rows if name.startswith("beta/") and name.count("/") == 2}
  assert found == {f"beta/{of}/{group}" for of in ("policy", "value") for group in ("all", "last")}
  np.testing.assert_allclose([rows[name] for name in found], np.log(metaopt.alpha), rtol=1e-6)

"""Runs as an axis: alone or together, chunked, on devices, frozen; the sparse form is exact."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from dm_env import specs

from selftune.core.agent.functions import Functions
from selftune.core.api import registry
from selftune.core.api.errors import UserError
from selftune.core.api.failures import INPUTS
from selftune.core.config import discovery
from selftune.core.experiment import Agent
from selftune.core.runs import settings
from selftune.core.runs.device import Runs
from selftune.core.runs.iteration import episodes
from selftune.core.runs.settings import Members
from selftune.plugins.envs.drifting_mountain_car import DriftingMountainCar
from selftune.plugins.envs.mountain_car import MountainCar
from selftune.plugins.metaopt.ac_lambda import AcLambda
from selftune.plugins.metaopt.metagradient import Metagradient
from selftune.plugins.networks.linear import Linear
from selftune.plugins.networks.mlp import Mlp
from selftune.plugins.networks.tile_coding import TileCoding
from selftune.plugins.optimizers.rmsprop import RMSProp
from selftune.plugins.tuners.constant_step import ConstantStep
from selftune.plugins.tuners.metatrace import Metatrace
from selftune.plugins.tuners.metatrace_mixed import MetatraceMixed
from selftune.plugins.tuners.metatrace_vector import MetatraceVector
from selftune.plugins.tuners.nosid import Nosid
from selftune.plugins.tuners.sid import Sid

discovery.load_all()
SHORT = MountainCar(max_steps=11)  # many episodes in few steps
SEEDS = (5, 6, 7)
VARIED = {
  "ac_lambda.alpha": (2**-5, 2**-7, 2**-6),
  "ac_lambda.gamma": (0.99, 0.9, 0.95),
  "ac_lambda.entropy": (0.0, 0.1, 0.02),
}


def some_slow(names, quick):
  """The names as parameters, all but the quick ones marked slow."""
  return [n if n in quick else pytest.param(n, marks=pytest.mark.slow) for n in names]


def online(tuner, network=None):
  return Agent(network=network or TileCoding(), metaopt=AcLambda(tuner))


def make(agent, env=SHORT, seeds=SEEDS, varied=VARIED, devices=1, fuse=True, chunk=32, **each):
  members = Members(agent, seeds, varied, **each)
  return Runs(members, env, jax.devices()[:devices], fuse, chunk)


def host(states, rows=slice(None)):
  """The states on the host, keys as numbers."""
  data = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
  return jax.tree.map(lambda x: np.asarray(data(x))[rows], states)


def assert_close(actual, expected, rtol=1e-5, atol=1e-6):
  jax.tree.map(
    lambda a, e: np.testing.assert_allclose(a, e, rtol=rtol, atol=atol), actual, expected
  )


# The sparse form.


def in_float64(states):
  wide = lambda x: x.astype(np.float64) if x.dtype == np.float32 else x
  learner = states.learner
  return states._replace(
    learner=learner._replace(
      params=jax.tree.map(wide, learner.params), meta_state=jax.tree.map(wide, learner.meta_state)
    )
  )


TUNERS = {
  "constant": ConstantStep(),
  "metatrace": Metatrace(mu=0.01),
  "raw": Metatrace(mu=1e-3, normalised=False),
  "sid": Sid(mu=1e-3),
  "nosid": Nosid(mu=0.01),
  "nosid_step": Nosid(mu=0.01, normaliser="step"),
}


@pytest.mark.parametrize("name", some_slow(TUNERS, ["metatrace"]))
def test_the_sparse_form_equals_the_dense_one(name):
  """Over ends of episodes within blocks, with entropy, in float64."""
  with jax.enable_x64(True):
    ends, states = {}, {}
    for fuse, iterations in ((False, 64), (True, 4)):
      runs = make(online(TUNERS[name]), fuse=fuse)
      states[fuse], ends[fuse] = runs.advance(in_float64(runs.init()), iterations)
    dense, sparse = host(states[False]), host(states[True])
  np.testing.assert_array_equal(ends[True].ended, ends[False].ended)
  np.testing.assert_array_equal(ends[True].length, ends[False].length)
  assert ends[True].ended.sum() >= 9
  assert_close(sparse, dense, rtol=1e-8, atol=1e-12)
  assert all(np.abs(x).max() > 0.01 for x in sparse.learner.params.values())
  assert np.abs(sparse.learner.meta_state.trace).max() > 0.1
  if name != "constant":
    assert np.abs(sparse.learner.meta_state.tuner.h).max() > 0.01


class Continuous:
  """A mountain car that is pushed as far as a real number is from 0, and in its direction."""

  spec = SHORT.spec._replace(action=specs.BoundedArray((1,), np.float32, [-1], [1]))
  init = staticmethod(SHORT.init)

  def step(self, state, action):
    return SHORT.step(state, 1 + action[0])


def test_real_actions_without_entropy():
  """Both forms, in float64; with entropy they have none in closed form, and say so."""
  varied = {"ac_lambda.alpha": VARIED["ac_lambda.alpha"]}
  with jax.enable_x64(True):
    states = {}
    for fuse, iterations in ((False, 64), (True, 4)):
      runs = make(online(Metatrace()), Continuous(), varied=varied, fuse=fuse)
      states[fuse] = host(runs.advance(in_float64(runs.init()), iterations)[0])
  assert_close(states[True], states[False], rtol=1e-8, atol=1e-12)
  assert all(np.abs(x).max() > 0.01 for x in states[True].learner.params.values())
  for fuse in (False, True):
    runs = make(online(Metatrace()), Continuous(), fuse=fuse)
    with pytest.raises(UserError, match=r"ac_lambda.entropy: .* write ac_lambda.entropy = 0"):
      runs.trace(runs.init(), 1)


@pytest.mark.slow
def test_the_sparse_form_is_close_in_float32():
  states = {}
  for fuse, iterations in ((False, 64), (True, 4)):
    runs = make(online(Metatrace()), fuse=fuse)
    states[fuse] = host(runs.advance(runs.init(), iterations)[0])
  assert_close(states[True], states[False], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  "tuner, network, sparse",
  [
    (Metatrace(), TileCoding(), True),
    (MetatraceMixed(), TileCoding(), False),
    (Metatrace(), Linear(), False),
  ],
)
def test_what_has_a_sparse_form(tuner, network, sparse):
  agent = Agent(network=network, metaopt=AcLambda(tuner))
  fns = Functions(agent, SHORT.spec)
  assert (agent.metaopt.fused(fns, SHORT, None) is not None) == sparse


class Careless:
  """A mountain car whose timesteps are integers where these will do; reward -1.5 a step."""

  spec = SHORT.spec

  def init(self, key):
    state, timestep = SHORT.init(key)
    return state, timestep._replace(reward=jnp.int32(0), discount=jnp.int32(1), first=jnp.int32(1))

  def step(self, state, action):
    state, timestep = SHORT.step(state, action)
    return state, timestep._replace(reward=1.5 * timestep.reward, first=timestep.first.astype(int))


@pytest.mark.parametrize("fuse", [True, False])
def test_the_first_timestep_does_not_decide_what_later_ones_can_hold(fuse):
  runs = make(online(Metatrace()), Careless(), fuse=fuse)
  states, ends = runs.advance(runs.init(), 2 if fuse else 32)
  assert [x.dtype for x in states.timestep] == [jnp.float32] * 3 + [bool]
  assert ends.length[ends.ended].tolist() == [11] * 6
  assert ends.episode_return[ends.ended].tolist() == [-16.5] * 6


# Alone or together.

AGENTS = {
  "sparse": (lambda: online(Metatrace()), SHORT, 3),
  "dense": (lambda: online(MetatraceMixed()), SHORT, 40),
  "drifting": (
    lambda: online(MetatraceVector(), Linear()),
    DriftingMountainCar(1e-3, max_steps=9),
    40,
  ),
  "network": (lambda: online(Metatrace(), Mlp(hidden=(8,))), SHORT, 40),
}


@pytest.mark.parametrize("name", some_slow(AGENTS, []))
def test_a_run_among_others_is_the_run_alone(name):
  agent, env, iterations = AGENTS[name]
  varied = dict(VARIED)
  if name == "drifting":
    varied["drifting_mountain_car.drift"] = (1e-3, 1e-2, 1e-3)
  runs = make(agent(), env, varied=varied, devices=2, chunk=1)
  together, ends = runs.advance(runs.init(), iterations)
  found = episodes(jax.device_get(ends), 3)
  for k in (0, 2):
    alone = make(agent(), env, SEEDS[k : k + 1], {n: x[k : k + 1] for n, x in varied.items()})
    state, ends = alone.advance(alone.init(), iterations)
    assert_close(host(together, k), host(state, 0))
    assert episodes(jax.device_get(ends), 1)[0] == found[k]
  assert all(found)
  first, second = (jax.tree.leaves(host(together, k).learner.params) for k in (0, 1))
  assert not all(map(np.allclose, first, second))


@pytest.mark.slow
def test_chunks_and_devices_change_nothing():
  agent = online(Metatrace())
  seeds, varied = (5, 6, 7, 8, 9), {"metatrace.mu": (0.01, 0.02, 0.03, 0.04, 0.05)}
  runs = make(agent, seeds=seeds, varied=varied)
  expected, _ = runs.advance(runs.init(), 2)
  for devices, chunk in ((1, 2), (2, 1), (2, 2), (2, 32)):
    runs = make(agent, seeds=seeds, varied=varied, devices=devices, chunk=chunk)
    states, ends = runs.advance(runs.init(), 2)
    assert_close(host(states, slice(5)), host(expected))
    assert ends.ended.shape == (len(states.finished), 32, 1)


@pytest.mark.slow
def test_what_is_saved_goes_on_on_other_devices():
  runs = make(online(Metatrace()), devices=2, chunk=2)
  states, _ = runs.advance(runs.init(), 2)
  saved = runs.saved(states)
  assert len(states.finished) == 4 and len(saved.finished) == 3
  expected, _ = runs.advance(runs.resume(saved), 2)
  other = make(online(Metatrace()), devices=1)
  again, _ = other.advance(other.resume(jax.device_put(saved, jax.devices()[0])), 2)
  assert_close(host(again), host(expected, slice(3)))


@pytest.mark.slow
def test_equal_seeds_and_settings_are_equal_runs():
  runs = make(online(Metatrace()), seeds=(5, 5, 6), varied={})
  states, _ = runs.advance(runs.init(), 4)
  first, second, third = (host(states, k) for k in range(3))
  jax.tree.map(np.testing.assert_array_equal, first, second)
  assert np.any(first.learner.params["value"] != third.learner.params["value"])


# Frozen runs.


@dataclasses.dataclass(frozen=True)
class Poisoned:
  """Mountain car whose reward is not finite from some step on."""

  at: float = 1e9
  max_steps: ClassVar[int] = 11

  @property
  def spec(self):
    return SHORT.spec

  def init(self, key):
    state, timestep = SHORT.init(key)
    return (state, jnp.zeros(())), timestep

  def step(self, state, action):
    car, timestep = SHORT.step(state[0], action)
    steps = state[1] + 1
    reward = jnp.where(steps >= self.at, jnp.nan, timestep.reward)
    return (car, steps), timestep._replace(reward=reward)


@pytest.mark.slow
@pytest.mark.parametrize("fuse, iterations", [(True, 2), (False, 32)])
def test_a_diverged_run_is_frozen_and_the_others_go_on(fuse, iterations, monkeypatch):
  monkeypatch.setattr(settings, "_is_component", lambda x: dataclasses.is_dataclass(x))
  monkeypatch.setattr(registry, "name_of", _name_of)
  env = Poisoned()
  runs = make(online(Metatrace()), env, varied={"poisoned.at": (1e9, 8.0, 1e9)}, fuse=fuse)
  states, _ = runs.advance(runs.init(), iterations)
  first = host(states)
  np.testing.assert_array_equal(first.learner.failure, [-1, INPUTS.index("reward"), -1])
  np.testing.assert_array_equal(runs.members.active(states), [True, False, True])
  np.testing.assert_array_equal(first.env_steps, [32, 8, 32])
  assert first.learner.step[1] == 7  # the update that failed is not made
  assert np.all(np.isfinite(first.learner.params["value"]))
  clean = make(online(Metatrace()), env, varied={}, fuse=fuse)
  expected, _ = clean.advance(clean.init(), iterations)
  for k in (0, 2):
    assert_close(first.learner.params["value"][k], host(expected).learner.params["value"][k])
  states, ends = runs.advance(states, iterations)
  jax.tree.map(np.testing.assert_array_equal, host(states, 1), jax.tree.map(lambda x: x[1], first))
  assert not ends.ended[1].any() and ends.ended[0].any()


def _name_of(plugin, real=registry.name_of):
  return "poisoned" if isinstance(plugin, Poisoned) else real(plugin)


@pytest.mark.slow
@pytest.mark.parametrize("fuse, iterations", [(True, 5), (False, 80)])
def test_a_finished_run_is_frozen(fuse, iterations):
  runs = make(online(Metatrace()), max_episodes=3, fuse=fuse)
  states, ends = runs.advance(runs.init(), iterations)
  assert states.finished.tolist() == [3, 3, 3]
  found = episodes(jax.device_get(ends), 3)
  assert found == [[(-11.0, 11)] * 3] * 3
  assert states.env_steps.tolist() == [36] * 3  # reset steps are counted
  before = host(states)
  states, ends = runs.advance(states, iterations)
  jax.tree.map(np.testing.assert_array_equal, host(states), before)
  assert not ends.ended.any()


@pytest.mark.slow
@pytest.mark.parametrize("fuse, iterations", [(True, 5), (False, 80)])
def test_a_run_that_has_made_its_env_steps_is_frozen(fuse, iterations):
  runs = make(online(Metatrace()), max_env_steps=29, fuse=fuse)
  states, _ = runs.advance(runs.init(), iterations)
  assert states.env_steps.tolist() == [29] * 3 and states.finished.tolist() == [2] * 3


# Any agent, and mistakes.


@pytest.mark.slow
def test_agents_that_learn_from_batches_are_runs_too():
  agent = small.agent(Metagradient(tune=("*.cost",)))
  runs = make(
    agent, varied={"entropy.cost": (0.01, 0.01, 0.5)}, num_envs=4, unroll_length=5, total_updates=9
  )
  states, ends = runs.advance(runs.init(), 6)
  assert states.env_steps.tolist() == [120] * 3 and states.learner.step.tolist() == [6] * 3
  assert ends.ended.shape == (3, 30, 4) and states.learner.failure.tolist() == [-1] * 3
  alone = make(
    agent,
    seeds=SEEDS[2:],
    varied={"entropy.cost": (0.5,)},
    num_envs=4,
    unroll_length=5,
    total_updates=9,
  )
  state, _ = alone.advance(alone.init(), 6)
  assert_close(host(states, 2).learner.params, host(state, 0).learner.params, 1e-4, 1e-5)


def with_rate(agent, learning_rate):
  objective = dataclasses.replace(agent.objective, optimizer=RMSProp(learning_rate))
  return dataclasses.replace(agent, objective=objective)


def test_what_acts_is_as_many_updates_old_as_configured():
  lag, updates = 2, 5
  agent = with_rate(small.agent(Metagradient(tune=())), 0.1)
  each = {"varied": {}, "num_envs": 2, "unroll_length": 3, "total_updates": 9}
  runs = make(agent, seeds=SEEDS[:2], devices=2, lag=lag, **each)
  states = runs.init()
  learned = [host(states).learner.params]
  for k in range(updates):
    states, _ = runs.advance(states, 1)
    assert runs.metrics["policy_lag"].tolist() == [min(k, lag)] * 2
    learned.append(host(states).learner.params)
  acting = host(states).acting.params
  for k in range(updates, updates + lag):  # trajectory k is acted by what update k - lag has left
    now = jax.tree.map(lambda ring, k=k: ring[:, k % lag], acting)
    jax.tree.map(np.testing.assert_array_equal, now, learned[k - lag])
  # Where two devices share the batch of a run, it is the same one.
  runs = make(agent, seeds=SEEDS[:1], devices=2, lag=lag, **each)
  states, _ = runs.advance(runs.init(), updates)
  one = lambda tree: jax.tree.map(lambda x: x[0], tree)
  assert_close(one(host(states).learner.params), one(learned[-1]), 1e-4, 1e-5)
  # Until then the first parameters have acted, as where nothing is learned.
  still = with_rate(agent, 0.0)
  seen = []
  for agent_, lag_ in ((agent, updates), (still, 0), (agent, 0)):
    runs = make(agent_, seeds=SEEDS[:2], lag=lag_, **each)
    states, _ = runs.advance(runs.init(), updates)
    seen.append(np.asarray(states.timestep.observation))
  np.testing.assert_array_equal(seen[0], seen[1])
  assert not np.array_equal(seen[0], seen[2])


def test_settings_that_are_not_there():
  with pytest.raises(
    ValueError, match=r"'metatrace.nu' is no number .* Did you mean 'metatrace.mu'"
  ):
    make(online(Metatrace()), varied={"metatrace.nu": (1.0, 2.0, 3.0)})
  with pytest.raises(ValueError, match="has 2 values for 3 runs"):
    make(online(Metatrace()), varied={"metatrace.mu": (1.0, 2.0)})


@dataclasses.dataclass(frozen=True)
class Derived:
  """An optimiser that derives a number from a setting when it is made."""

  rate: float = 0.5
  half: float = dataclasses.field(init=False)

  def __post_init__(self):
    object.__setattr__(self, "half", self.rate / 2)


def test_what_a_plugin_derives_follows_a_setting(monkeypatch):
  monkeypatch.setattr(registry, "configurables", lambda: {"derived": Derived})
  monkeypatch.setattr(registry, "name_of", lambda plugin: "derived")
  half = lambda rate: settings.with_settings(Derived(), {"derived.rate": rate}).half
  assert half(3.0) == 1.5 and jax.jit(half)(3.0) == 1.5


def test_a_plugin_looks_at_the_settings_of_each_run_once_and_not_while_they_are_traced():
  # Bounds are compared with the configured cost, which a program of many runs would trace.
  bounded = Metagradient(tune=("*.cost",), bounds={"entropy.cost": (0.002, 0.5)})
  varied = {"entropy.cost": (0.01, 0.02)}
  runs = make(small.agent(bounded, network=Mlp()), seeds=(5, 6), varied=varied, unroll_length=4)
  runs.advance(runs.init(), 1)
  with pytest.raises(ValueError, match=r"entropy\.cost is tuned from 0 to 0\.001"):
    settings.check_each(small.agent(bounded), {"entropy.cost": (0.01, 0.001)})

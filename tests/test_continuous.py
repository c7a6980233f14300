"""The continuous agent with memory: metagradients by differences, devices, runs from end to end."""

import functools
import itertools
import json

import fakes
import jax
import numpy as np
import optax
import pytest
import small
from dm_env import specs

from selftune.core import train as training
from selftune.core.agent.functions import Functions
from selftune.core.api.errors import UserError
from selftune.core.api.types import LearnerState
from selftune.core.config import ROOT
from selftune.core.evaluation import evaluate
from selftune.plugins.losses.leaky_vtrace import LeakyVTrace
from selftune.plugins.losses.normal_kl import NormalKL
from selftune.plugins.losses.policy_gradient import PolicyGradient
from selftune.plugins.losses.value import Value
from selftune.plugins.metaopt.metagradient import Metagradient
from selftune.plugins.networks.mlp import Mlp
from selftune.plugins.optimizers.rmsprop import RMSProp

T, B = 5, 4
SPEC = small.SPEC._replace(action=specs.BoundedArray((2,), np.float32, [-1, -2], [1, 3]))


def agent(heads, tune=("*",)):
  return small.agent(
    Metagradient(tune=tune),
    network=Mlp(hidden=(6,), lstm=5),
    corrector=LeakyVTrace(gamma=0.9, lambda_=0.95, rho_bar=1.1, c_bar=0.5),
    losses=(PolicyGradient(), Value(), NormalKL(0.1)),
    optimizer=RMSProp(learning_rate=0.3, eps=1e-3),
    heads=heads,
  )


def batch(seed, dtype=np.float32):
  """Windows that begin within an episode, with a state; samples of the behaviour policy."""
  rng = np.random.default_rng(seed)
  data = small.trajectory(seed, T, B, dtype)
  assert data.timestep.first[1:].any() and not data.timestep.first[0].all()
  state = Functions(agent(1), SPEC).network.initial_state(B)
  behaviour = 0.1 * rng.normal(size=(T, B, 4)).astype(dtype)  # near the policy: ratios around 1
  return data._replace(
    behaviour=behaviour,
    action=(np.tanh(behaviour[..., :2]) + np.exp(-2) * rng.normal(size=(T, B, 2))).astype(dtype),
    core_state=jax.tree.map(lambda x: rng.normal(size=x.shape).astype(dtype), state),
  )


# The metagradient: theta'(eta) without the meta-optimiser, by central differences. These are of
# <grad L_outer(theta'), theta'(eta)>, as L_outer itself holds what is not differentiated.


@functools.cache
def by_differences(heads):
  subject = agent(heads)
  fns = Functions(subject, SPEC, 100)
  data = batch(1, np.float64)
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(fns.network.init, jax.random.key(0))
  params = jax.tree.map(lambda x: 0.1 * rng.normal(size=x.shape), shapes)
  state = LearnerState(params, fns.init_optimizer(params), (), np.int32(1), (), np.int32(-1))
  state = state._replace(meta_state=subject.metaopt.init(fns, state, data))
  etas = jax.tree.map(lambda x: 0.5 + 0.5 * rng.normal(size=x.shape), state.meta_state.etas)
  state = state._replace(meta_state=state.meta_state._replace(etas=etas))

  def updated(etas):
    values = subject.metaopt.values(fns, state.meta_state._replace(etas=etas))
    grads, (_, reference) = jax.grad(fns.inner_loss, has_aux=True)(params, values, data)
    new, _ = fns.optimizer_step(params, grads, state.opt_state, state.step, values)
    return new, fns.gamma(values), reference

  @jax.jit
  def outer(new, gamma, reference):
    return fns.outer_loss(new, gamma, reference, data)[0]

  direction = jax.grad(outer)(*jax.jit(updated)(etas))
  along = jax.jit(lambda etas: optax.tree.vdot(direction, updated(etas)[0]))

  _, metrics = jax.jit(functools.partial(subject.metaopt.step, fns))(state, data)
  pairs = {}
  for name, eta in etas.items():
    for p in range(len(eta)):
      move = 1e-5 * np.eye(len(eta))[p]
      up, down = (float(along(etas | {name: eta + s * move})) for s in (1, -1))
      pairs[name, p] = (float(metrics[f"metagrad/{name}/{p}"]), (up - down) / 2e-5)
  return pairs


@pytest.mark.slow
@pytest.mark.parametrize("heads", [1, 3])
def test_metagradients_through_the_memory(heads):
  with jax.enable_x64(True):
    pairs = by_differences(heads)
  assert {name for name, _ in pairs} >= {"normal_kl.cost", "leaky_vtrace.gamma", "value.cost"}
  for name, (actual, expected) in pairs.items():
    assert abs(expected) > 1e-9, name  # the torso and the memory are shared: every head moves it
    np.testing.assert_allclose(actual, expected, rtol=1e-4, err_msg=str(name))


@pytest.mark.slow
def test_devices_and_micro_batches_change_nothing():
  results = []
  for devices, micro_batch in ((1, None), (2, 1)):
    learner = small.learner(agent(2), devices, B, T, micro_batch, spec=SPEC)
    state = small.first_state(learner, batch(0))
    for seed in range(2):
      state, _ = learner.update(state, learner.put(batch(seed)))
    results.append(jax.device_get((state.params, state.meta_state.etas)))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), *results)


# Runs from end to end.

PENDULUM = """
include 'algos/stac.gin'
include 'suites/control.gin'
include 'networks/mlp_lstm.gin'
train.env = @envpool()
envpool.task = 'Pendulum-v1'
train.learner_devices = (0,)
mlp.hidden = (8,)
mlp.lstm = 8
agent.heads = 2
objective.max_abs_reward = 1.0
train.num_envs = 4
train.unroll_length = 8
train.overlap = 5
train.log_seconds = 0.0
train.total_env_steps = 104
"""


pytestmark = pytest.mark.usefixtures("compiled_once")


@pytest.fixture
def config(tmp_path):
  path = tmp_path / "pendulum.gin"
  path.write_text(PENDULUM)
  return str(path)


def rows(path):
  return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_env_steps_are_those_that_the_environments_made(config, tmp_path):
  progress = training.train(config, (), tmp_path / "run")
  # 4 environments: 8 steps for the first update, 3 for each of the following 6.
  assert (progress.updates, progress.env_steps) == (7, 4 * (8 + 6 * 3))
  logged = rows(tmp_path / "run")
  assert [row["env_steps"] for row in logged] == [32, 44, 56, 68, 80, 92, 104]
  # Lag 0, but windows hold older steps: 5 of 8 an update old, and 2 of these two updates.
  assert [row["policy_lag"] for row in logged] == [0, 5 / 8, 7 / 8, 7 / 8, 7 / 8, 7 / 8, 7 / 8]


@pytest.mark.slow
def test_lockstep_equals_sebulba_without_lag_to_the_bit(config, tmp_path):
  training.train(config, (), tmp_path / "lockstep")
  sebulba = ("train.runtime = @sebulba()", "sebulba.lag = 0")
  text = PENDULUM.replace("train.learner_devices = (0,)\n", "")
  text = text.replace("include 'suites/control.gin'", f"include '{suite(tmp_path)}'")
  (tmp_path / "pendulum.gin").write_text(text)
  training.train(config, sebulba, tmp_path / "sebulba")
  assert fakes.checksums(tmp_path / "lockstep") == fakes.checksums(tmp_path / "sebulba")


def suite(folder):
  """The suite without what it binds of lockstep, which nothing would read."""
  path = folder / "control.gin"
  packaged = ROOT / "suites/control.gin"
  lines = packaged.read_text().splitlines(keepends=True)
  path.write_text("".join(line for line in lines if "train.learner_devices" not in line))
  return path


@pytest.mark.slow
def test_resumes_and_is_evaluated_with_its_memory(config, tmp_path):
  run = tmp_path / "run"
  training.train(config, (), run)
  progress = training.train(config, ("train.total_env_steps = 200",), run, resume=True)
  # New pools have no steps that a window could begin with: again 8, then 3 an update.
  added = itertools.pairwise([row["env_steps"] for row in rows(run)])
  assert [b - a for a, b in added] == [12] * 6 + [32] + [12] * 7
  assert progress.updates == 15
  state = fakes.checksums(run)
  assert any("lstm" in name for name in state)
  result = evaluate.evaluate(run, episodes=2)
  assert result["length"] == 200 and -2000 < result["mean"] < 0


# What does not go together is said before anything is made.


@pytest.mark.parametrize(
  "bindings, message",
  [
    (
      ("objective.losses = (@policy_gradient(), @entropy())",),
      r"write @normal_kl\(\) for @entropy",
    ),
    (("envpool.task = 'CartPole-v1'",), r"write @entropy\(\) for @normal_kl"),
    (("outer.losses = (@entropy(),)",), r"write @normal_kl\(\) for @entropy"),
    (("train.overlap = 8",), r"overlap = 8 must be from 0 to 7"),
  ],
)
def test_mistakes(config, tmp_path, bindings, message):
  with pytest.raises(UserError, match=message):
    training.train(config, bindings, tmp_path / "run")
  assert not (tmp_path / "run").exists()

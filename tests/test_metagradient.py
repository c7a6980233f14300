"""Metagradients against central differences in float64, of everything written down once more.

What is differentiated, L_outer(OPT(theta, g(theta, eta))), is written here in plain JAX, without
the package: losses (Algorithm 1 of STAC), transforms and update (Algorithm 2), RMSProp.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from selftune.core.agent.functions import Functions
from selftune.core.api import tunables
from selftune.core.api.types import LearnerState
from selftune.core.experiment import Outer
from selftune.plugins.losses.policy_kl import PolicyKL
from selftune.plugins.metaopt._chain import inner_update
from selftune.plugins.metaopt._context import Context
from selftune.plugins.metaopt.metagradient import Metagradient

T, B, UPDATES, STEP = 3, 4, 64, 8
RATE, END, DECAY, EPS = 0.3, 0.25, 0.9, 1e-3
MAX_REWARD = 0.8
CONFIGURED = {  # name: its outer value, and how eta maps to the inner value
  "leaky_vtrace.gamma": (0.9, "unit"),
  "leaky_vtrace.lambda_": (0.95, "unit"),
  "leaky_vtrace.alpha": (1.0, "unit"),
  "leaky_vtrace.alpha_rho": (0.9, "unit"),
  "leaky_vtrace.alpha_c": (0.8, "unit"),
  "leaky_vtrace.truncation": (1.0, "positive"),
  "leaky_vtrace.rho_bar": (1.3, "positive"),
  "leaky_vtrace.c_bar": (0.9, "positive"),
  "policy_gradient.cost": (1.0, "scale"),
  "value.cost": (0.25, "scale"),
  "entropy.cost": (0.01, "scale"),
  "rmsprop.learning_rate": (RATE, "scale"),
}
KL_COST = 0.7


class Case(NamedTuple):
  heads: int
  behaviour: str = "first"
  outer_batch: str = "same"


CASES = [
  Case(1),
  pytest.param(Case(3), marks=pytest.mark.slow),
  pytest.param(Case(2, "average", "next"), marks=pytest.mark.slow),
  pytest.param(Case(3, "random"), marks=pytest.mark.slow),
  pytest.param(Case(3, "average"), marks=pytest.mark.slow),
  pytest.param(Case(3, "first", "next"), marks=pytest.mark.slow),
]


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


# The agent under test.


def agent(metaopt, heads=1, behaviour="first"):
  default = small.agent()
  fields = lambda name: {
    key.split(".")[1]: value for key, (value, _) in CONFIGURED.items() if key.split(".")[0] == name
  }
  optimizer = fields("rmsprop") | dict(end_factor=END, decay=DECAY, eps=EPS)
  return small.agent(
    metaopt,
    corrector=dataclasses.replace(default.objective.corrector, **fields("leaky_vtrace")),
    optimizer=dataclasses.replace(default.objective.optimizer, **optimizer),
    heads=heads,
    behaviour=behaviour,
    max_abs_reward=MAX_REWARD,
    outer=Outer(losses=(PolicyKL(KL_COST),)),
  )


class Subject(NamedTuple):
  """One jitted step of the meta-optimiser, and a state in the middle of training."""

  step: object  # state, batch -> state, metagradients by name, [P]
  state: object
  batches: tuple  # of the update; of the outer loss


@functools.cache
def make_subject(case):
  metaopt = Metagradient(tune=("*",), outer_batch=case.outer_batch)
  fns = Functions(agent(metaopt, case.heads, case.behaviour), small.SPEC, UPDATES)
  batches = [small.trajectory(seed, T, B, np.float64) for seed in (1, 2)]
  for batch in batches:
    # One weight a unit of the torso gets no gradient, and its second moment stays 0.
    batch.timestep.observation[..., 0] = 0
    assert (np.abs(batch.timestep.reward) > MAX_REWARD).any()
    assert batch.timestep.first[1:].any() and (batch.timestep.discount == 0).any()
  rng = np.random.default_rng(0)
  perturbed = lambda tree, size: jax.tree.map(lambda x: x + size * rng.normal(size=x.shape), tree)
  zeros = lambda f, *args: jax.tree.map(lambda x: np.zeros(x.shape), jax.eval_shape(f, *args))
  params = perturbed(zeros(fns.network.init, jax.random.key(0)), 1)
  second_moment = jax.tree.map(lambda p: rng.random(p.shape), params)
  second_moment["torso"][0] = 0
  opt_state = zeros(fns.agent.objective.optimizer.init, params)._replace(nu=second_moment)
  state = LearnerState(params, opt_state, (), np.int32(STEP), (), np.int32(-1))
  meta_state = zeros(lambda: metaopt.init(fns, state, batches[0]))
  etas = {
    name: (0.0 if kind == "positive" else 0.7) + 0.5 * rng.normal(size=meta_state.etas[name].shape)
    for name, (_, kind) in CONFIGURED.items()
  }
  state = state._replace(meta_state=meta_state._replace(etas=etas))
  if case.outer_batch == "next":
    # The update that is yet to be judged; where it led is checked by what is written down below.
    before = (perturbed(state.params, 0.1), state.opt_state, np.int32(STEP - 1), etas, batches[0])
    made = jax.jit(lambda *x: inner_update(fns, tunables.collect(fns.components), *x))(*before)
    meta_state = state.meta_state._replace(window=(made.update,))
    state = state._replace(params=made.params, opt_state=made.opt_state, meta_state=meta_state)
  else:
    batches[1] = batches[0]

  @jax.jit
  def step(state, batch):
    state, metrics = metaopt.step(fns, state, batch)
    gradient = {
      name: jnp.stack([metrics[f"metagrad/{name}/{p}"] for p in range(len(eta))])
      for name, eta in state.meta_state.etas.items()
    }
    return state, gradient

  return Subject(step, state, tuple(batches))


# The same written down.


def transformed(etas):
  """zeta(eta) (Algorithm 2, line 10)."""
  forms = {
    "unit": lambda eta, value: jax.nn.sigmoid(eta),
    "scale": lambda eta, value: jax.nn.sigmoid(eta) * value,
    "positive": lambda eta, value: jnp.log1p(jnp.exp(eta)),
  }
  return {name: forms[kind](etas[name], value) for name, (value, kind) in CONFIGURED.items()}


def network(params, observation, gamma):
  x = jnp.tanh(observation @ params["torso"])
  x = x[None] + 0.1 * gamma[:, None, None, None] * params["gamma"].reshape(1, 1, 1, -1)
  logits = jnp.einsum("ptbh,pha->ptba", x, params["policy"])
  return logits, jnp.einsum("ptbh,ph->ptb", x, params["value"])


def loss(z, log_pi, value, fixed_log_pi, fixed_value, data, reference, kl_cost):
  """Algorithm 1 for one head, and the KL of Eq. 3 against the reference (log-probabilities).

  Everything that is under a stop-gradient there is computed from `fixed_log_pi` and `fixed_value`.
  """
  choose = lambda log_p: jnp.take_along_axis(log_p, data.action[..., None], -1)[..., 0]
  log_mu = choose(jax.nn.log_softmax(data.behaviour))
  ratio = jnp.exp(jnp.minimum(choose(fixed_log_pi[:-1]) - log_mu, 5.0))
  z = {name.split(".")[-1] if "vtrace" in name else name: x for name, x in z.items()}
  truncated = lambda bar: jnp.minimum(z["truncation"] * z[bar], ratio)
  leak = lambda alpha, bar: (1 - alpha) * ratio + alpha * truncated(bar)
  rho = leak(z["alpha"] * z["alpha_rho"], "rho_bar")
  c = z["lambda_"] * leak(z["alpha"] * z["alpha_c"], "c_bar")
  total, error, bootstrap = 0.0, jnp.zeros(B), fixed_value[T]
  for t in reversed(range(T)):
    valid = ~data.timestep.first[t + 1]
    reward = jnp.clip(data.timestep.reward[t + 1], -MAX_REWARD, MAX_REWARD)
    discount = z["gamma"] * data.timestep.discount[t + 1]
    delta = rho[t] * (reward + discount * fixed_value[t + 1] - fixed_value[t])
    error = jnp.where(valid, delta + discount * c[t] * error, 0)
    advantage = rho[t] * (reward + discount * bootstrap - fixed_value[t])
    bootstrap = fixed_value[t] + error
    terms = z["value.cost"] * (bootstrap - value[t]) ** 2
    terms -= z["policy_gradient.cost"] * choose(log_pi[:-1])[t] * advantage
    terms += z["entropy.cost"] * jnp.sum(jnp.exp(log_pi[t]) * log_pi[t], -1)
    terms += kl_cost * jnp.sum(jnp.exp(log_pi[t]) * (log_pi[t] - reference[t]), -1)
    total += jnp.sum(jnp.where(valid, terms, 0))
  return total


class Written(NamedTuple):
  """Algorithm 2, for one case.

  `now` is eta once more: what a derivative by eta does not see is computed from it. So nothing is
  stopped here, and differences by `etas` are the metagradient.
  """

  case: Case

  @property
  def extra(self):
    return int(self.case.behaviour == "average")

  def discounts(self, z):
    return jnp.append(z["leaky_vtrace.gamma"], jnp.full(self.extra, 0.9))

  def per_head(self, z):
    """[P + extra] of each: the configured values are the extra head's."""
    heads = self.case.heads
    return {
      name: jnp.append(jnp.broadcast_to(z[name], heads), jnp.full(self.extra, value))
      for name, (value, _) in CONFIGURED.items()
    }

  def evaluate(self, params, data, z):
    """Log-probabilities and values, those of the average policy last, if there is one."""
    logits, value = network(params, data.timestep.observation, self.discounts(z))
    if self.extra:
      logits = jnp.append(logits[:-1], jnp.mean(logits[:-1], 0, keepdims=True), axis=0)
    return jax.nn.log_softmax(logits), value

  def inner(self, params, z, fixed, data):
    log_pi, value = self.evaluate(params, data, z)
    if self.extra:
      log_pi = jnp.append(log_pi[:-1], fixed[0][-1:], axis=0)
    losses = jax.vmap(loss, (0, 0, 0, 0, 0, None, 0, None))(
      self.per_head(z), log_pi, value, *fixed, data, log_pi, 0
    )
    return jnp.sum(losses) / self.case.heads

  def update(self, etas, now, params, second_moment, step, data):
    """theta'(eta) and its second moment."""
    z = transformed(etas)
    fixed = self.evaluate(params, data, transformed(now))
    gradient = jax.grad(self.inner)(params, z, fixed, data)
    rate = z["rmsprop.learning_rate"][0] * (1 - step / UPDATES * (1 - END))
    nu = jax.tree.map(lambda n, g: DECAY * n + (1 - DECAY) * g**2, second_moment, gradient)
    moved = lambda p, g, n: p - rate * g / jnp.sqrt(n + EPS)
    return jax.tree.map(moved, params, gradient, nu), nu

  def outer(self, etas, fixed, now, params, second_moment, step, data, outer_data):
    """L_outer(theta'(eta)) and theta'(eta); `fixed` is what `policies` said of theta'(now)."""
    heads = {
      "first": slice(0, 1),
      "random": slice(0, self.case.heads),
      "average": slice(self.case.heads, None),
    }[self.case.behaviour]
    z = transformed(now)
    reference, _ = self.evaluate(params, outer_data, z)
    params, nu = self.update(etas, now, params, second_moment, step, data)
    arrays = (*self.evaluate(params, outer_data, z), *fixed)
    arrays = jax.tree.map(lambda x: x[heads], arrays)
    configured = {name: jnp.asarray(value) for name, (value, _) in CONFIGURED.items()}
    losses = jax.vmap(loss, (None, 0, 0, 0, 0, None, 0, None))(
      configured, *arrays, outer_data, reference[heads], KL_COST
    )
    return jnp.mean(losses), (params, nu)


class Results(NamedTuple):
  before: LearnerState
  after: LearnerState
  metagradient: dict
  differences: dict
  autodiff: dict  # reverse mode over reverse mode, through everything at once
  params: dict  # after the update, as written down; and their second moment
  second_moment: dict


@functools.cache
def results(case, by_autodiff=False):
  subject, written = make_subject(case), Written(case)
  state, (data, outer_data) = subject.state, subject.batches
  after, metagradient = subject.step(state, outer_data)
  outer = jax.jit(written.outer)
  evaluate = jax.jit(written.evaluate)
  etas = state.meta_state.etas
  start = (etas, state.params, state.opt_state.nu, STEP, data)
  if case.outer_batch == "next":
    (previous,) = state.meta_state.window
    start = (etas, previous.params, previous.opt_state.nu, STEP - 1, data)
  fixed = evaluate(state.params, outer_data, transformed(etas))  # of any parameters
  params, second_moment = outer(etas, fixed, *start, outer_data)[1]
  fixed = evaluate(params, outer_data, transformed(etas))
  differences = {name: np.zeros(eta.shape) for name, eta in etas.items()}
  for name, eta in etas.items():
    for p in range(len(eta)):
      move = 1e-5 * np.eye(len(eta))[p]
      up, down = (
        outer(etas | {name: eta + s * move}, fixed, *start, outer_data)[0] for s in (1, -1)
      )
      differences[name][p] = (up - down) / 2e-5
  autodiff = {}
  if by_autodiff:
    autodiff = jax.jit(jax.grad(written.outer, has_aux=True))(etas, fixed, *start, outer_data)[0]
  if case.outer_batch == "next":
    tuned = after.meta_state.etas
    start = (tuned, state.params, state.opt_state.nu, STEP, outer_data)
    params, second_moment = outer(tuned, fixed, *start, outer_data)[1]
  return Results(state, after, metagradient, differences, autodiff, params, second_moment)


every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))


@every_case
def test_every_metagradient_against_central_differences(case):
  found = results(case)
  assert found.metagradient.keys() == CONFIGURED.keys()
  for name, expected in found.differences.items():
    assert expected.shape == ((1,) if name.startswith("rmsprop") else (case.heads,))
    assert np.all(np.abs(expected) > 1e-6), name
    np.testing.assert_allclose(found.metagradient[name], expected, rtol=1e-4, err_msg=name)


@pytest.mark.slow
@every_case
def test_every_metagradient_against_reverse_over_reverse(case):
  found = results(case, by_autodiff=True)
  for name, expected in found.autodiff.items():
    np.testing.assert_allclose(found.metagradient[name], expected, rtol=1e-8, err_msg=name)


@every_case
def test_new_parameters(case):
  found = results(case)
  close = lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-10)
  jax.tree.map(close, found.after.params, found.params)
  jax.tree.map(close, found.after.opt_state.nu, found.second_moment)
  # One row of weights has no gradient: what is differentiated holds an optimiser at g = nu = 0.
  nu = found.second_moment["torso"]
  assert not np.any(nu[0]) and np.all(nu[1:] > 0)


@every_case
def test_etas_move_against_the_metagradient(case):
  found = results(case)
  for name, g in found.metagradient.items():
    # The first step of Adam: both moments, without their bias, are g and g^2.
    step = -1e-3 * g / (np.abs(g) + 1e-4)
    moved = found.after.meta_state.etas[name] - found.before.meta_state.etas[name]
    np.testing.assert_allclose(moved, step, rtol=1e-6)


def test_no_gradient_at_all():
  # Every transition is a reset step, and the second moment is still 0: the derivative of OPT there
  # must be finite, and the metagradient is 0.
  subject = make_subject(Case(1))
  zeros = jax.tree.map(np.zeros_like, subject.state.opt_state)
  data = subject.batches[0]
  timestep = data.timestep._replace(first=np.ones_like(data.timestep.first))
  state = subject.state._replace(opt_state=zeros)
  after, gradient = subject.step(state, data._replace(timestep=timestep))
  for name, g in gradient.items():
    np.testing.assert_array_equal(g, np.zeros_like(g), err_msg=name)
  jax.tree.map(np.testing.assert_array_equal, after.params, state.params)


# Where eta starts.


def first_etas(**options):
  metaopt = Metagradient(**options)
  fns = Functions(agent(metaopt, heads=2), small.SPEC, UPDATES)
  meta_state = metaopt.init(fns, LearnerState((), (), (), 0, (), 0), ())
  return jax.tree.map(np.asarray, (meta_state.etas, metaopt.values(fns, meta_state)))


def test_first_etas_and_values():
  etas, values = first_etas(tune=("*",))
  for name, (configured, kind) in CONFIGURED.items():
    heads = 1 if name == "rmsprop.learning_rate" else 2
    sigmoid = 1 / (1 + np.exp(-4.6))
    expected = {"unit": sigmoid, "scale": sigmoid * configured, "positive": configured}[kind]
    np.testing.assert_allclose(values[name], np.full(heads, expected), rtol=1e-12)
    if kind != "positive":
      np.testing.assert_array_equal(etas[name], np.full(heads, 4.6))


def test_first_etas_by_pattern():
  etas, values = first_etas(
    tune=("leaky_vtrace.*", "*.cost"),
    eta_init=2.0,
    eta_init_of={"*.cost": -1.0, "value.cost": 0.0, "leaky_vtrace.rho_bar": 3.0},
  )
  assert "rmsprop.learning_rate" not in etas and len(etas) == 11
  np.testing.assert_array_equal(etas["leaky_vtrace.gamma"], [2.0, 2.0])
  np.testing.assert_array_equal(etas["entropy.cost"], [-1.0, -1.0])
  np.testing.assert_array_equal(etas["value.cost"], [0.0, 0.0])  # the later pattern counts
  np.testing.assert_allclose(values["value.cost"], [0.125, 0.125])
  np.testing.assert_allclose(values["leaky_vtrace.rho_bar"], np.log1p(np.exp([3.0, 3.0])))


def test_a_context_of_nothing_that_is_tuned():
  assert first_etas(tune=(), context=Context()) == ({}, {})


def test_first_etas_are_within_their_bounds():
  bounds = {"leaky_vtrace.gamma": (0.5, 0.9), "*.cost": (0.1, 0.2), "value.cost": (0.15, 0.2)}
  etas, values = first_etas(
    tune=("leaky_vtrace.gamma", "leaky_vtrace.lambda_", "value.cost", "policy_gradient.cost"),
    eta_init_of={"value.cost": -4.6},
    bounds=bounds,
  )
  np.testing.assert_allclose(values["leaky_vtrace.gamma"], [0.9, 0.9], rtol=1e-12)
  np.testing.assert_allclose(values["policy_gradient.cost"], [0.2, 0.2], rtol=1e-12)
  np.testing.assert_allclose(values["value.cost"], [0.15, 0.15], rtol=1e-12)  # the later pattern
  np.testing.assert_array_equal(etas["leaky_vtrace.lambda_"], [4.6, 4.6])


@pytest.mark.parametrize(
  "options, message",
  [
    (
      dict(tune=("value.*", "leaky_vtrace.gama")),
      "^tune pattern 'leaky_vtrace.gama' matches no tunable. Did you mean 'leaky_vtrace.gamma'[?] "
      "There are: leaky_vtrace.gamma, .*, value.cost, entropy.cost, rmsprop.learning_rate[.]$",
    ),
    (
      dict(tune=("value.cost",), eta_init_of={"entropy.cost": 1.0}),
      "^eta_init_of pattern 'entropy.cost' matches no tunable.* There are: value.cost[.]$",
    ),
  ],
)
def test_patterns_that_match_nothing(options, message):
  with pytest.raises(ValueError, match=message):
    first_etas(**options)

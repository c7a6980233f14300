"""Correctors: a NumPy loop, literal numbers, RLax, special cases, and Theorem 1."""

import functools
import itertools
import math
import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selftune.core.api.types import CorrectorInputs
from selftune.plugins.losses import _targets
from selftune.plugins.losses.importance_sampling import ImportanceSampling
from selftune.plugins.losses.lambda_return import LambdaReturn
from selftune.plugins.losses.leaky_vtrace import LeakyVTrace
from selftune.plugins.losses.vtrace import VTrace

LEAKY = LeakyVTrace(0.9, 0.8, 0.7, 0.9, 0.6, 1.2, 1.1, 0.8)
WEIGHTS = {  # corrector, and its rho and c without lambda, of one IS ratio
  "vtrace": (
    VTrace(gamma=0.9, lambda_=0.8, rho_bar=1.3, c_bar=0.7),
    lambda ratio: min(1.3, ratio),
    lambda ratio: min(0.7, ratio),
  ),
  "leaky_vtrace": (  # alpha 0.7 ties 0.9 and 0.6; truncation 1.2 ties 1.1 and 0.8
    LEAKY,
    lambda ratio: (1 - 0.63) * ratio + 0.63 * min(1.32, ratio),
    lambda ratio: (1 - 0.42) * ratio + 0.42 * min(0.96, ratio),
  ),
  "importance_sampling": (ImportanceSampling(0.9, 0.8), lambda ratio: ratio, lambda ratio: ratio),
  "lambda_return": (LambdaReturn(0.9, 0.8), lambda ratio: 1.0, lambda ratio: 1.0),
}


def inputs(t=12, b=16, resets=True, seed=0):
  """Episodes that end by termination and by truncation, each followed by its reset step."""
  rng = np.random.default_rng(seed)
  ends = (rng.random((t, b)) < 0.25) & resets
  terminated = ends & (rng.random((t, b)) < 0.5)
  reset = np.concatenate([np.zeros((1, b), bool), ends[:-1]])
  terminated, truncated = terminated & ~reset, ends & ~terminated & ~reset
  x = CorrectorInputs(
    log_is=rng.normal(size=(t, b)),
    value=rng.normal(size=(t + 1, b)),
    reward=np.where(reset, 0, rng.normal(size=(t, b))),
    discount=np.where(terminated, 0, 1),
    mask=np.where(reset, 0, 1),
  )
  assert not resets or (terminated.any() and truncated.any() and reset.any())
  return jax.tree.map(lambda array: array.astype(np.float32), x)


def algorithm_1(x, gamma, lambda_, rho_of, c_of):
  """Lines 2-16 and the advantage of line 20 of the STAC paper, one environment at a time."""
  t_max, b_max = x.reward.shape
  target, advantage = np.zeros((2, t_max, b_max))
  for b in range(b_max):
    ratio = [np.exp(float(x.log_is[t, b])) for t in range(t_max)]
    value = [float(v) for v in x.value[:, b]]
    error = 0.0
    bootstrap = value[t_max]
    for t in reversed(range(t_max)):
      discount = gamma * x.discount[t, b]
      rho, c = rho_of(ratio[t]), lambda_ * c_of(ratio[t])
      delta = rho * (x.reward[t, b] + discount * value[t + 1] - value[t])
      error = x.mask[t, b] * (delta + discount * c * error)
      target[t, b] = error + value[t]
      advantage[t, b] = rho * (x.reward[t, b] + discount * bootstrap - value[t])
      bootstrap = target[t, b]
  return target, advantage


@pytest.mark.parametrize("name", WEIGHTS)
def test_correctors_in_numpy(name):
  corrector, rho_of, c_of = WEIGHTS[name]
  x = inputs()
  targets, metrics = jax.jit(corrector)(x)
  value, advantage = algorithm_1(x, 0.9, 0.8, rho_of, c_of)
  np.testing.assert_allclose(targets.value, value, rtol=1e-6, atol=1e-6)
  np.testing.assert_allclose(targets.advantage, advantage, rtol=1e-6, atol=2e-6)
  if name in ("vtrace", "leaky_vtrace"):
    clipped = np.exp(x.log_is) > {"vtrace": 1.3, "leaky_vtrace": 1.32}[name]
    np.testing.assert_array_equal(metrics["is_ratio/clip_fraction"], clipped)
    assert 0 < clipped.mean() < 1


def extreme(t=40, b=3):
  """Ratios of 81 and more throughout, capped at exp(5); two environments have ends."""
  x = inputs(t, b, resets=False)
  discount, mask = x.discount.copy(), x.mask.copy()
  discount[[10, 30], 1], mask[[11, 31], 1], discount[25, 2] = 0, 0, 0
  log_is = np.minimum(np.log(81) + np.abs(x.log_is), 5)
  return x._replace(log_is=log_is, discount=discount, mask=mask)


def unbounded(x, gamma, alpha):
  """Value targets of leaky V-trace as the paper has them."""
  ratio = jnp.exp(x.log_is)
  weight = (1 - alpha) * ratio + alpha * jnp.minimum(1.0, ratio)
  discount, value_tm1, value_t = gamma * x.discount, x.value[:-1], x.value[1:]
  delta = weight * (x.reward + discount * value_t - value_tm1)
  backward = lambda error, x: (x[2] * (x[0] + x[1] * error),) * 2
  steps = delta, discount * weight, x.mask
  return value_tm1 + jax.lax.scan(backward, jnp.zeros_like(delta[0]), steps, reverse=True)[1]


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9])
def test_products_of_ratios_are_bounded(alpha):
  x, gamma = extreme(), 0.99
  corrector = LeakyVTrace(gamma=gamma, alpha=alpha)
  targets, _ = jax.jit(corrector)(x)
  plain = np.abs(unbounded(x, gamma, alpha))
  assert not plain.max() < 1e37  # its square, the loss, is infinite
  assert max(np.abs(y).max() for y in targets) < 1e12
  for b in range(3):
    one = jax.tree.map(lambda y, b=b: jnp.asarray(y[:, b : b + 1]), x)
    target = lambda reward, one=one: corrector(one._replace(reward=reward))[0].value
    found = jax.jacobian(target)(one.reward)[:, 0, :, 0]  # of target t by reward k
    ratio = np.exp(x.log_is[:, b].astype(np.float64))
    rho = (1 - alpha) * ratio + alpha
    trace = gamma * x.discount[:, b] * x.mask[:, b] * rho
    products = np.zeros((40, 41))  # [t, k]: of the coefficients t to k - 1
    for t in reversed(range(40)):
      greatest = max(1, products[t + 1].max()) if t < 39 else 1
      trace[t] = min(trace[t], 1e6 / greatest)
      for k in range(t, 41):
        products[t, k] = np.prod(trace[t:k])
    expected = products[:, :40] * rho * x.mask[:, b] * x.mask[:, b][:, None]
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    assert 0.9e6 < products.max() < 1.00001e6


def test_the_bound_changes_nothing_else_to_the_bit(monkeypatch):
  x = inputs(40)
  total = lambda alpha: jnp.sum(LeakyVTrace(gamma=0.99, alpha=alpha)(x)[0].value ** 2)
  bounded = jax.jit(jax.value_and_grad(total))(0.9)
  monkeypatch.setattr(_targets, "MAX_TRACE", 1e30)
  without = jax.jit(jax.value_and_grad(lambda alpha: total(alpha)))(0.9)
  np.testing.assert_array_equal(bounded, without)
  assert not np.isfinite(LeakyVTrace(gamma=0.99, alpha=0.5)(extreme())[0].value ** 2).all()


def test_derivatives_of_bounded_products():
  with jax.enable_x64(True):
    x = jax.tree.map(lambda y: y.astype(np.float64), extreme())
    total = lambda alpha: jnp.sum(jnp.tanh(1e-9 * LeakyVTrace(0.99, 1.0, alpha)(x)[0].value))
    for alpha in (0.3, 0.9):
      difference = (total(alpha + 1e-7) - total(alpha - 1e-7)) / 2e-7
      np.testing.assert_allclose(jax.grad(total)(alpha), difference, rtol=1e-5)
      assert abs(difference) > 1e-3


@pytest.mark.parametrize(
  "end, discount, mask, value, advantage",
  [
    # rho = c = 0.5 IS + 0.5 min(1, IS) = 1.5, 0.5, 1, and gamma lambda = 0.25
    # delta = 1.5 (1 + 1 - 1), 0.5 (1 + 1.5 - 2), 2 + 2 - 3 = 1.5, 0.25, 1
    # e = 1.5 + 0.375 * 0.375, 0.25 + 0.125 * 1, 1
    ("none", [1, 1, 1], [1, 1, 1], [2.640625, 2.375, 4.0], [1.78125, 0.5, 1.0]),
    # The transition 1 -> 2 ends the episode, 2 -> 3 is its reset step: e_2 = 0.
    # Terminated: delta_1 = 0.5 (1 - 2), and nothing is bootstrapped from V(x_2) = 3.
    ("terminated", [1, 0, 1], [1, 1, 0], [2.3125, 1.5, 3.0], [1.125, -0.5, None]),
    # Truncated: delta_1 = 0.25 bootstraps from V(x_2), and the trace ends there.
    ("truncated", [1, 1, 1], [1, 1, 0], [2.59375, 2.25, 3.0], [1.6875, 0.25, None]),
  ],
)
def test_three_steps_by_hand(end, discount, mask, value, advantage):
  del end
  x = CorrectorInputs(
    log_is=jnp.log(jnp.array([[2.0], [0.5], [1.0]])),
    value=jnp.array([[1.0], [2.0], [3.0], [4.0]]),
    reward=jnp.array([[1.0], [1.0], [2.0 * mask[2]]]),
    discount=jnp.array(discount, jnp.float32)[:, None],
    mask=jnp.array(mask, jnp.float32)[:, None],
  )
  targets, _ = jax.jit(LeakyVTrace(gamma=0.5, lambda_=0.5, alpha=0.5))(x)
  np.testing.assert_allclose(targets.value[:, 0], value, rtol=1e-6)
  for actual, expected in zip(targets.advantage[:, 0], advantage, strict=True):
    assert expected is None or actual == pytest.approx(expected, rel=1e-6)  # None: masked by core


def test_nothing_crosses_a_reset_step():
  x = inputs()
  reset = x.mask == 0
  gradient = jax.jit(jax.grad(lambda v, x: LEAKY(x._replace(value=v))[0].value[0].sum()))
  first_reset = np.argmax(reset, axis=0)
  through = np.asarray(gradient(x.value, x)) != 0
  assert reset.any(axis=0).sum() > 3
  for b in np.flatnonzero(reset.any(axis=0)):
    assert not through[first_reset[b] + 1 :, b].any()


# RLax. The sample_mask of its V-trace passes the error of the next step through a masked one, where
# ours is zero there, so these inputs have no reset steps; and it fixes c_bar = 1.


def with_rlax(function, x, lambda_, **options):
  """A function of RLax on every environment, with gamma = 0.9 and rho_bar = 1.3."""
  function = functools.partial(function, lambda_=lambda_, clip_rho_threshold=1.3, **options)
  ratio, discount = np.exp(x.log_is), np.float32(0.9) * x.discount
  mapped = jax.jit(jax.vmap(function, 1, 1))
  return mapped(x.value[:-1], x.value[1:], x.reward, discount, ratio)


def unbroken():
  x = inputs(resets=False)
  return x._replace(
    discount=np.where(np.random.default_rng(1).random(x.discount.shape) < 0.2, 0, 1)
  )


def test_vtrace_equals_rlax():
  import rlax

  x = unbroken()
  ours, _ = jax.jit(VTrace(gamma=0.9, lambda_=0.8, rho_bar=1.3))(x)
  errors = with_rlax(rlax.vtrace, x, lambda_=0.8)
  np.testing.assert_allclose(ours.value - x.value[:-1], errors, rtol=1e-5, atol=1e-6)
  # RLax's advantage bootstraps from a mixture of v_t and V(x_t) by lambda, and clips rho on its
  # own (IMPALA's code); Algorithm 1 has v_t and one rho, so the two agree at lambda = 1.
  ours, _ = jax.jit(VTrace(gamma=0.9, lambda_=1.0, rho_bar=1.3))(x)
  theirs = with_rlax(rlax.vtrace_td_error_and_advantage, x, lambda_=1.0, clip_pg_rho_threshold=1.3)
  np.testing.assert_allclose(ours.advantage, theirs.pg_advantage, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_leaky_vtrace_equals_rlax(alpha):
  import rlax

  x = unbroken()
  ours, _ = jax.jit(LeakyVTrace(gamma=0.9, lambda_=0.8, alpha=alpha, rho_bar=1.3))(x)
  errors = with_rlax(rlax.leaky_vtrace, x, lambda_=0.8, alpha_=alpha)
  np.testing.assert_allclose(ours.value - x.value[:-1], errors, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(12,), (12, 16), (12, 4, 2, 2)])
@pytest.mark.parametrize("gamma, lambda_", [(0.9, 0.8), (1.0, 1.0), (0.99, 0.0), (1, 0)])
def test_the_lambda_return_of_rlax_is_our_recursion(shape, gamma, lambda_):
  """With ends and reset steps; its metagradients too, through both targets."""
  x = inputs(b=math.prod(shape[1:]), seed=2)
  x = jax.tree.map(lambda y: y.reshape(len(y), *shape[1:]), x)
  of_rlax = lambda gamma, lambda_: LambdaReturn(gamma, lambda_)(x)[0]
  one = np.ones_like(x.reward)
  of_ours = lambda gamma, lambda_: _targets.corrected_targets(x, gamma, lambda_, one, one)
  weights = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
  weighted = lambda targets: sum(map(jnp.vdot, weights, targets))
  for theirs, ours in zip(of_rlax(gamma, lambda_), of_ours(gamma, lambda_), strict=True):
    np.testing.assert_allclose(theirs, ours, rtol=1e-6, atol=1e-6)
  theirs, ours = (
    jax.grad(lambda *numbers, f=f: weighted(f(*numbers)), (0, 1))(float(gamma), float(lambda_))
    for f in (of_rlax, of_ours)
  )
  np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-5)
  assert min(map(abs, ours)) > 1e-2


def test_only_the_lambda_return_waits_for_rlax():
  code = (
    "import sys; from selftune.core.config import discovery; discovery.load_all();"
    "print('rlax' in sys.modules)"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert done.stdout == "False\n"


# Special cases, to the bit.


@pytest.mark.parametrize(
  "special, plain",
  [
    (LeakyVTrace(0.9, 0.8, alpha=1.0, rho_bar=1.3, c_bar=0.7), VTrace(0.9, 0.8, 1.3, 0.7)),
    (LeakyVTrace(0.9, 0.8, alpha=0.0, rho_bar=1.3, c_bar=0.7), ImportanceSampling(0.9, 0.8)),
    (LeakyVTrace(0.9, 0.8, alpha_rho=0.0, alpha_c=0.0), ImportanceSampling(0.9, 0.8)),
    (LeakyVTrace(0.9, 0.8, truncation=1.5), VTrace(0.9, 0.8, 1.5, 1.5)),
  ],
)
def test_special_cases_of_leaky_vtrace(special, plain):
  x = inputs()
  for ours, expected in zip(jax.jit(special)(x)[0], jax.jit(plain)(x)[0], strict=True):
    np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("corrector", [LEAKY, VTrace(0.9, 0.8), ImportanceSampling(0.9, 0.8)])
def test_on_policy_all_are_the_lambda_return(corrector):
  if corrector is LEAKY:  # c_bar below 1 would clip a ratio of 1
    corrector = LeakyVTrace(0.9, 0.8, 0.7, 0.9, 0.6)
  x = inputs()
  x = x._replace(log_is=np.zeros_like(x.log_is))
  expected, _ = jax.jit(LambdaReturn(0.9, 0.8))(x)
  for ours, theirs in zip(jax.jit(corrector)(x)[0], expected, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


# Theorem 1: the operator R V(x) = E_mu[v_0 | x_0 = x] is a contraction, and its fixed point is the
# value of the policy proportional to alpha_rho min(rho_bar mu, pi) + (1 - alpha_rho) pi. Here the
# expectation is exact, a sum over every trajectory of STEPS transitions, and v_0 is the corrector's
# own. (With lambda = 1; rate and fixed point hold for any number of steps >= 1.)
#
# The proof needs rho_t >= c_t, which it infers from rho_bar >= c_bar and alpha_rho >= alpha_c. But
# alpha is the weight of the truncated ratio: the more of it, the smaller the coefficient. It is
# alpha_rho <= alpha_c that gives rho_t >= c_t; the last test shows that it matters.

STATES, ACTIONS, STEPS, GAMMA = 3, 2, 3, 0.9


class Mdp(NamedTuple):
  """A tabular MDP, and two policies."""

  transition: np.ndarray  # [S, A, S]
  reward: np.ndarray  # [S, A, S]
  discount: np.ndarray  # [S, A, S], 0 or 1
  pi: np.ndarray  # [S, A]
  mu: np.ndarray  # [S, A]


@functools.cache
def every_path():
  """All states [T+1, N] and actions [T, N] of trajectories of STEPS transitions."""
  moves = itertools.product(range(STATES), *[range(ACTIONS), range(STATES)] * STEPS)
  path = np.array(list(moves)).T
  return path[::2], path[1::2]


@jax.jit
def operator(mdp, alpha_rho, alpha_c, rho_bar, c_bar):
  """R as an affine map of V: matrix [S, S] and offset [S]."""
  corrector = LeakyVTrace(GAMMA, 1.0, 1.0, alpha_rho, alpha_c, 1.0, rho_bar, c_bar)
  states, actions = every_path()
  step = (states[:-1], actions, states[1:])
  probability = jnp.prod(mdp.mu[step[:2]] * mdp.transition[step], axis=0)

  def apply(value):
    x = CorrectorInputs(
      log_is=jnp.log(mdp.pi / mdp.mu)[step[:2]],
      value=value[states],
      reward=mdp.reward[step],
      discount=mdp.discount[step],
      mask=jnp.ones(actions.shape),
    )
    return jax.ops.segment_sum(probability * corrector(x)[0].value[0], states[0], STATES)

  zero = jnp.zeros(STATES)
  return jax.jacobian(apply)(zero), apply(zero)


def value_of(mdp, policy):
  """The value of a policy, by linear algebra."""
  joint = policy[:, :, None] * mdp.transition
  matrix = GAMMA * np.sum(joint * mdp.discount, axis=1)
  return np.linalg.solve(np.eye(STATES) - matrix, np.sum(joint * mdp.reward, axis=(1, 2)))


def check_theorem_1(mdp, alpha_rho, alpha_c, rho_bar, c_bar):
  """Checks the fixed point; returns the rate of contraction in the sup-norm, and its bound."""
  with jax.enable_x64(True):
    matrix, offset = map(np.asarray, operator(mdp, alpha_rho, alpha_c, rho_bar, c_bar))
  mixture = alpha_rho * np.minimum(rho_bar * mdp.mu, mdp.pi) + (1 - alpha_rho) * mdp.pi
  value = value_of(mdp, mixture / mixture.sum(axis=1, keepdims=True))
  np.testing.assert_allclose(np.linalg.solve(np.eye(STATES) - matrix, offset), value, rtol=1e-9)
  beta = np.min(np.sum(np.minimum(rho_bar * mdp.mu, mdp.pi), axis=1))
  bound = 1 - (1 - GAMMA) * (alpha_rho * beta + 1 - alpha_rho)
  return np.abs(matrix).sum(axis=1).max(), bound


def random_mdp(seed):
  rng = np.random.default_rng(seed)
  return Mdp(
    transition=rng.dirichlet(np.ones(STATES), (STATES, ACTIONS)),
    reward=rng.normal(size=(STATES, ACTIONS, STATES)),
    discount=np.where(rng.random((STATES, ACTIONS, STATES)) < 0.1, 0.0, 1.0),
    pi=rng.dirichlet(np.full(ACTIONS, 0.7), STATES),
    mu=rng.dirichlet(np.full(ACTIONS, 2.0), STATES),
  )


@pytest.mark.parametrize(
  "alpha_rho, alpha_c, rho_bar, c_bar",
  [
    (1.0, 1.0, 1.0, 1.0),
    (0.0, 0.0, 1.0, 1.0),
    (0.6, 0.6, 1.0, 1.0),
    (0.6, 0.6, 1.5, 0.8),
    (0.3, 0.9, 1.2, 1.2),
    (0.8, 1.0, 0.6, 0.4),
  ],
)
def test_theorem_1(alpha_rho, alpha_c, rho_bar, c_bar):
  for seed in range(20):
    rate, bound = check_theorem_1(random_mdp(seed), alpha_rho, alpha_c, rho_bar, c_bar)
    assert rate <= bound + 1e-12


def test_theorem_1_needs_alpha_rho_at_most_alpha_c():
  # 0 -> 1 -> 2 -> 2 whatever is done. Off-policy in state 0, with ratios of 9 and 1/9.
  chain = np.eye(STATES)[np.array([[1, 1], [2, 2], [2, 2]])]
  even = [0.5, 0.5]
  mdp = Mdp(
    transition=chain,
    reward=np.random.default_rng(0).normal(size=chain.shape),
    discount=np.ones_like(chain),
    pi=np.array([[0.9, 0.1], even, even]),
    mu=np.array([[0.1, 0.9], even, even]),
  )
  # rho_0 = min(1, IS) has mean 0.2, but c_0 = IS has mean 1; later ones are 1. So, up to rewards,
  # R V(0) = (1 - 0.2) V(0) + 0.9 (0.2 - 1) V(1) + 0.9^3 V(2): not even non-expansive.
  rate, bound = check_theorem_1(mdp, alpha_rho=1.0, alpha_c=0.0, rho_bar=1.0, c_bar=1.0)
  assert bound == pytest.approx(0.98)
  assert rate == pytest.approx(0.8 + 0.72 + 0.729)
  rate, bound = check_theorem_1(mdp, alpha_rho=0.0, alpha_c=1.0, rho_bar=1.0, c_bar=1.0)
  assert rate <= bound + 1e-12

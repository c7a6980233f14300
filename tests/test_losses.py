"""Loss terms by hand; the loss and its gradient against NumPy; what is stopped and what is not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from selftune.core.agent.distributions import Categorical, SquashedGaussian
from selftune.core.agent.functions import Functions
from selftune.core.api.types import LossInputs, Targets
from selftune.plugins.losses.entropy import Entropy
from selftune.plugins.losses.leaky_vtrace import LeakyVTrace
from selftune.plugins.losses.normal_kl import NormalKL
from selftune.plugins.losses.policy_gradient import PolicyGradient
from selftune.plugins.losses.policy_kl import PolicyKL
from selftune.plugins.losses.value import Value

LN2 = np.log(2)


# One transition of one environment: pi = (1/2, 1/4, 1/4), mu uniform, V = 3, v = 5, adv = -2.


def one_transition():
  one = jnp.ones((1, 1))
  uniform = jnp.zeros((1, 1, 3))
  return LossInputs(
    policy=jnp.log(jnp.array([[[0.5, 0.25, 0.25]]])) + 7,  # logits have no scale
    value=3 * one,
    targets=Targets(5 * one, -2 * one),
    action=jnp.array([[1]]),
    behaviour=uniform,
    reference=uniform,
    reward=one,
    discount=one,
    distribution=Categorical(3),
  )


@pytest.mark.parametrize(
  "term, expected, metrics",
  [
    (PolicyGradient(3.0), -3 * np.log(1 / 4) * -2, {}),
    (Value(0.25), 0.25 * 2**2, {}),
    (Entropy(0.1), -0.1 * 1.5 * LN2, {"entropy": 1.5 * LN2}),
    # KL(pi || uniform) = ln 3 - H; the other way round it would be (5 ln 2) / 3 - ln 3
    (PolicyKL(2.0), 2 * (np.log(3) - 1.5 * LN2), {"kl": np.log(3) - 1.5 * LN2}),
  ],
)
def test_terms_by_hand(term, expected, metrics):
  loss, actual = term(one_transition())
  np.testing.assert_allclose(loss, [[expected]], rtol=1e-5)
  assert actual.keys() == metrics.keys()
  for name, value in metrics.items():
    np.testing.assert_allclose(actual[name], [[value]], rtol=1e-5)


def test_normal_kl_by_hand():
  # One action with mean 1/2 and std exp(-1): KL = (e^-2 + 1/4 - 1) / 2 + 1.
  policy = jnp.arctanh(jnp.array([[[0.5, 0.5]]]))
  inputs = one_transition()._replace(
    policy=policy, distribution=SquashedGaussian(np.array([-3.0]), np.array([1.0]))
  )
  kl = 0.5 * (np.exp(-2) + 0.25 - 1) + 1
  loss, metrics = NormalKL(0.1)(inputs)
  np.testing.assert_allclose(loss, [[0.1 * kl]], rtol=1e-5)
  np.testing.assert_allclose(metrics["normal_kl"], [[kl]], rtol=1e-5)


# The whole loss. The parameters are the network's outputs themselves, so that the gradient can be
# written down.

HEADS, T, B = 2, 6, 5
GAMMA, LAMBDA = np.array([0.9, 0.7]), np.array([0.95, 0.5])
ALPHA, G_V, G_E = np.array([0.6, 0.9]), np.array([0.5, 0.25]), np.array([0.02, 0.1])
MAX_REWARD = 1.0
VALUES = {
  "leaky_vtrace.gamma": GAMMA,
  "leaky_vtrace.lambda_": LAMBDA,
  "leaky_vtrace.alpha": ALPHA,
  "value.cost": G_V,
  "entropy.cost": G_E,
}


def table():
  return small.table(HEADS, T, B)


def batch():
  data = small.trajectory(3, T, B, np.float64)
  reward = np.abs(data.timestep.reward)
  assert (reward > MAX_REWARD).any() and data.timestep.first[1:].any()
  assert (data.timestep.discount == 0).any()
  return data


def objective_of(**options):
  corrector = LeakyVTrace(gamma=0.99, lambda_=1.0)
  agent = small.agent(network=small.TableNetwork(), corrector=corrector, heads=HEADS, **options)
  return Functions(agent, small.SPEC, 1, lambda f, batch: f(batch)).inner_loss


@functools.cache
def raw_loss():
  return jax.jit(objective_of())


def softmax(x):
  exp = np.exp(x - x.max(-1, keepdims=True))
  return exp / exp.sum(-1, keepdims=True)


def numpy_loss(params, values, data, max_reward=MAX_REWARD):
  """(1/P) sum_p L (Algorithm 1 of STAC), and its gradient by policy logits and values."""
  value_of = lambda name, p: values[name][p]
  total, grad = 0.0, {name: np.zeros_like(x) for name, x in params.items()}
  for p in range(HEADS):
    gamma, lambda_, alpha = (
      value_of(f"leaky_vtrace.{name}", p) for name in ("gamma", "lambda_", "alpha")
    )
    g_v, g_e = value_of("value.cost", p), value_of("entropy.cost", p)
    pi, mu = softmax(params["policy"][p]), softmax(data.behaviour)
    value = params["value"][p]
    for b in range(B):
      error, bootstrap = 0.0, value[T, b]
      for t in reversed(range(T)):
        a = data.action[t, b]
        ratio = pi[t, b, a] / mu[t, b, a]
        rho = (1 - alpha) * ratio + alpha * min(1, ratio)
        discount = gamma * data.timestep.discount[t + 1, b]
        reward = np.clip(data.timestep.reward[t + 1, b], -max_reward, max_reward)
        valid = not data.timestep.first[t + 1, b]
        delta = rho * (reward + discount * value[t + 1, b] - value[t, b])
        error = valid * (delta + discount * lambda_ * rho * error)
        advantage = rho * (reward + discount * bootstrap - value[t, b])
        bootstrap = value[t, b] + error
        log_pi = np.log(pi[t, b])
        entropy = -np.sum(pi[t, b] * log_pi)
        if valid:
          total += g_v * error**2 - log_pi[a] * advantage - g_e * entropy
          grad["value"][p, t, b] = -2 * g_v * error
          grad["policy"][p, t, b] = (pi[t, b] - np.eye(small.ACTIONS)[a]) * advantage
          grad["policy"][p, t, b] += g_e * pi[t, b] * (log_pi + entropy)
  return total / HEADS, jax.tree.map(lambda x: x / HEADS, grad)


def test_loss_and_gradient_in_numpy():
  # All at once: losses are summed; masked steps count nothing; targets and ratios are stopped (else
  # more than -2 g_v e_t would reach V); the loss of the policy does not reach V.
  with jax.enable_x64(True):
    loss = objective_of(max_abs_reward=MAX_REWARD)
    (actual, (metrics, _)), grad = jax.jit(jax.value_and_grad(loss, has_aux=True))(
      table(), VALUES, batch()
    )
    total = np.asarray(metrics["loss/total"])
  expected, expected_grad = numpy_loss(table(), VALUES, batch())
  np.testing.assert_allclose(actual, expected, rtol=1e-10)
  transitions = (~batch().timestep.first[1:]).sum()  # the loss is their sum, a metric their mean
  np.testing.assert_allclose(total.mean() * transitions, expected, rtol=1e-10)
  jax.tree.map(
    lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-9, atol=1e-12), grad, expected_grad
  )


def test_rewards_are_raw_unless_clipped():
  loss = raw_loss()(table(), VALUES, batch())[0]
  raw, _ = numpy_loss(table(), VALUES, batch(), np.inf)
  np.testing.assert_allclose(loss, raw, rtol=1e-5)


def test_derivative_by_metaparameters_reaches_through_the_targets():
  # They are not stopped: what stays fixed is V and the ratios only.
  with jax.enable_x64(True):
    loss = objective_of(max_abs_reward=MAX_REWARD)
    gradient = jax.jit(jax.grad(lambda values: loss(table(), values, batch())[0]))(VALUES)
    gradient = jax.tree.map(np.asarray, gradient)
  for name, value in VALUES.items():
    for p in range(HEADS):
      step = 1e-6 * np.eye(HEADS)[p]
      up, down = (
        numpy_loss(table(), VALUES | {name: moved}, batch())[0]
        for moved in (value + step, value - step)
      )
      assert abs(gradient[name][p]) > 1e-3
      np.testing.assert_allclose(gradient[name][p], (up - down) / 2e-6, rtol=1e-6)


def test_metrics_are_means_over_valid_transitions():
  data = batch()
  metrics = raw_loss()(table(), VALUES, data)[1][0]
  valid = ~data.timestep.first[1:]
  pi = softmax(table()["policy"][:, :-1])
  entropy = -np.sum(pi * np.log(pi), axis=-1)
  for p in range(HEADS):
    np.testing.assert_allclose(metrics["entropy"][p], entropy[p][valid].mean(), rtol=1e-5)
    expected = -G_E[p] * entropy[p][valid].mean()
    np.testing.assert_allclose(metrics["loss/entropy"][p], expected, rtol=1e-5)


def test_ratios_are_capped():
  data = batch()
  data.behaviour[..., 0] -= 40  # log IS of about 40
  data = data._replace(action=np.zeros_like(data.action))
  ratio_max = raw_loss()(table(), VALUES, data)[1][0]["is_ratio/max"]
  np.testing.assert_allclose(ratio_max, np.exp(5.0), rtol=1e-5)


def test_quantiles_of_ratios_are_of_valid_transitions():
  data = batch()
  metrics = raw_loss()(table(), VALUES, data)[1][0]
  valid = ~data.timestep.first[1:]
  assert not valid.all()
  take = lambda y: np.take_along_axis(np.log(softmax(y)), data.action[..., None], -1)[..., 0]
  for p in range(HEADS):
    ratios = np.exp(take(table()["policy"][p, :-1]) - take(data.behaviour))[valid]
    found = [metrics[f"is_ratio/{name}"][p] for name in ("q05", "q50", "q95", "max")]
    np.testing.assert_allclose(found, np.quantile(ratios, [0.05, 0.5, 0.95, 1]), rtol=1e-5)
  none = data._replace(timestep=data.timestep._replace(first=np.ones_like(data.timestep.first)))
  assert raw_loss()(table(), VALUES, none)[1][0]["is_ratio/max"].tolist() == [0] * HEADS


@pytest.mark.parametrize(
  "term, name, sign",
  [(Entropy(), "entropy", 1), (PolicyKL(), "kl", -1), (Value(), "loss/value", -1)],
)
def test_a_step_down_the_gradient(term, name, sign):
  # raises the entropy; lowers the KL to the behaviour policy; lowers the value error.
  loss = objective_of(losses=(term,), max_abs_reward=MAX_REWARD)
  grad = jax.jit(jax.grad(lambda params: loss(params, {}, batch()), has_aux=True))
  params = table()
  step, (before, _) = grad(params)
  _, (after, _) = grad(jax.tree.map(lambda p, g: p - 0.1 * g, params, step))
  assert np.all(sign * (after[name] - before[name]) > 0)

"""Action distributions against Distrax, quadrature and literal numbers."""

import re

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from selftune.core.agent.distributions import Categorical, SquashedGaussian, for_action_spec
from selftune.core.api.errors import UserError

LOW, HIGH = np.array([-1.0, -2.0, 0.0]), np.array([1.0, 3.0, 0.5])
GAUSSIAN = SquashedGaussian(LOW, HIGH)


def parameters(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape) * 1.5


def mean_std(params):
  """Written down once more: mean = tanh(x), log std from -4 to 0."""
  x, y = np.split(params, 2, axis=-1)
  return np.tanh(x), np.exp(-4 + 0.5 * 4 * (np.tanh(y) + 1))


# Categorical.


def test_categorical_equals_distrax():
  rng = np.random.default_rng(0)
  logits, other = rng.normal(size=(2, 5, 4, 3)).astype(np.float32) * 3
  action = rng.integers(0, 3, (5, 4))
  ours, theirs = Categorical(3), distrax.Categorical(logits)
  for actual, expected in (
    (ours.log_prob(logits, action), theirs.log_prob(action)),
    (ours.entropy(logits), theirs.entropy()),
    (ours.kl(logits, other), theirs.kl_divergence(distrax.Categorical(other))),
    (ours.mode(logits), theirs.mode()),
  ):
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_samples_are_distributed_as_the_policy():
  logits = jnp.log(jnp.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]))
  keys = jax.random.split(jax.random.key(0), 4000)
  samples = jax.vmap(lambda key: Categorical(3).sample(key, logits))(keys)
  for b in range(2):
    frequencies = np.bincount(samples[:, b], minlength=3) / 4000
    np.testing.assert_allclose(frequencies, jnp.exp(logits[b]), atol=0.03)


MASKED, OTHER = np.array([-np.inf, 1.0, 0.0, -np.inf]), np.array([-np.inf, -1.0, 0.5, -np.inf])


def along(f, direction):
  """As metagradients need it: the derivative of a derivative along a direction."""
  return jax.grad(lambda x: jax.jvp(f, (x,), (direction,))[1])


@pytest.mark.parametrize(
  "ours, without",
  [
    (Categorical(4).entropy, Categorical(2).entropy),
    (lambda x: Categorical(4).kl(x, OTHER), lambda x: Categorical(2).kl(x, OTHER[1:3])),
    (lambda x: Categorical(4).kl(OTHER, x), lambda x: Categorical(2).kl(OTHER[1:3], x)),
    (lambda x: Categorical(4).log_prob(x, 1), lambda x: Categorical(2).log_prob(x, 0)),
  ],
  ids=["entropy", "kl", "kl of reference", "log_prob"],
)
def test_masked_actions_are_as_if_they_were_not_there(ours, without):
  with jax.enable_x64(True):
    x, direction = jnp.asarray(MASKED[1:3]), np.array([0.3, 2.0, -1.0, 5.0])
    np.testing.assert_allclose(ours(MASKED), without(x), rtol=1e-12)
    differences = [(without(x + e) - without(x - e)) / 2e-6 for e in 1e-6 * np.eye(2)]
    np.testing.assert_allclose(jax.grad(ours)(MASKED), [0, *differences, 0], rtol=1e-6)
    second = along(without, direction[1:3])(x)
    np.testing.assert_allclose(along(ours, direction)(MASKED), [0, *second, 0], rtol=1e-10)


def test_masked_actions_in_literal_numbers():
  it, x = Categorical(3), jnp.array([-jnp.inf, 0.0, 0.0])
  np.testing.assert_allclose(it.entropy(x), np.log(2), rtol=1e-6)
  assert it.entropy(jnp.array([-jnp.inf, 3.0, -jnp.inf])) == 0
  assert it.kl(x, x) == 0
  np.testing.assert_allclose(it.kl(x, jnp.zeros(3)), np.log(3 / 2), rtol=1e-6)
  assert it.kl(jnp.zeros(3), x) > 1e29  # takes what the reference never does
  assert (it.log_prob(x, 0), it.mode(x)) == (-np.inf, 1)
  keys = jax.random.split(jax.random.key(0), 500)
  assert set(np.unique(jax.vmap(lambda key: it.sample(key, x))(keys))) == {1, 2}


# Squashed Gaussian.


def test_squashed_gaussian_equals_distrax():
  with jax.enable_x64(True):
    params, other = parameters(0, 2, 5, 4, 6)
    sample = np.asarray(GAUSSIAN.sample(jax.random.key(1), params))
    normal, normal_r = (distrax.MultivariateNormalDiag(*mean_std(p)) for p in (params, other))
    squashed = distrax.Transformed(normal, distrax.Block(distrax.Tanh(), 1))
    standard = distrax.MultivariateNormalDiag(np.zeros((5, 4, 3)), np.ones((5, 4, 3)))
    for actual, expected in (
      (GAUSSIAN.log_prob(params, sample), squashed.log_prob(np.tanh(sample))),
      (GAUSSIAN.kl(params, other), normal.kl_divergence(normal_r)),
      (GAUSSIAN.normal_kl(params), normal.kl_divergence(standard)),
      (GAUSSIAN.mode(params), normal.mode()),
    ):
      assert actual.shape == expected.shape
      np.testing.assert_allclose(actual, expected, rtol=1e-9)


def test_squashed_gaussian_by_quadrature():
  """One action: the density on (-1, 1) integrates to 1; KLs are the integrals they stand for."""
  one = SquashedGaussian(LOW[:1], HIGH[:1])
  with jax.enable_x64(True):
    u = np.linspace(-12, 12, 20_001)[:, None]
    a, slope = np.tanh(u), 1 / np.cosh(u) ** 2  # da = slope du
    for seed in range(5):
      params, other = parameters(seed, 2, 1, 2)
      log_p, log_q = (np.asarray(one.log_prob(np.tile(p, (len(u), 1)), u)) for p in (params, other))
      integral = lambda f, slope=slope: np.trapezoid(f * slope[:, 0], u[:, 0])
      p = np.exp(log_p)
      np.testing.assert_allclose(integral(p), 1, rtol=1e-8)
      np.testing.assert_allclose(integral(p * a[:, 0]), expected_action(params), rtol=1e-8)
      np.testing.assert_allclose(integral(p * (log_p - log_q)), one.kl(params, other)[0], rtol=1e-6)
      log_normal = -0.5 * u[:, 0] ** 2 - 0.5 * np.log(2 * np.pi) - np.log(slope[:, 0])
      expected = one.normal_kl(params)[0]
      np.testing.assert_allclose(integral(p * (log_p - log_normal)), expected, rtol=1e-6)


def expected_action(params):
  """E[tanh(u)] by Gauss-Hermite."""
  mean, std = mean_std(params)
  x, w = np.polynomial.hermite_e.hermegauss(120)
  return (w * np.tanh(mean[0] + std[0] * x)).sum() / w.sum()


def test_samples_of_the_squashed_gaussian():
  params = parameters(2, 1, 6).astype(np.float32)
  samples = GAUSSIAN.sample(jax.random.key(0), np.tile(params, (20_000, 1)))
  assert (samples.shape, samples.dtype) == ((20_000, 3), np.float32)
  mean, std = mean_std(params[0])
  np.testing.assert_allclose(samples.mean(axis=0), mean, atol=4 * std.max() / 20_000**0.5)
  np.testing.assert_allclose(samples.std(axis=0), std, rtol=0.03)


def test_the_standard_deviation_stays_within_its_bounds():
  for y, log_std in ((-50.0, -4.0), (0.0, -2.0), (50.0, 0.0)):
    params = np.array([[0.0, 0.0, 0.0, y, y, y]])
    kl = GAUSSIAN.normal_kl(params)[0]
    np.testing.assert_allclose(kl, 3 * (0.5 * (np.exp(2 * log_std) - 1) - log_std), rtol=1e-5)


def test_log_probabilities_of_samples_that_tanh_rounds_to_one():
  params = np.zeros((5, 6), np.float32)
  for u in (-40.0, 40.0):
    sample = np.full((5, 3), u, np.float32)
    assert np.abs(np.tanh(sample)).min() == 1
    std = np.exp(-2.0)
    slope = np.log(4) - 2 * abs(u)  # log(1 - tanh(u)^2) = log 4 - 2 |u| + O(exp(-2 |u|))
    expected = 3 * (-0.5 * (u / std) ** 2 - 0.5 * np.log(2 * np.pi) + 2 - slope)
    np.testing.assert_allclose(GAUSSIAN.log_prob(params, sample), [expected] * 5, rtol=1e-5)
    gradient = jax.grad(lambda p, s=sample: GAUSSIAN.log_prob(p, s).sum())(params)
    assert np.isfinite(gradient).all()


def test_actions_fill_the_bounds_of_each_environment():
  sample = np.array([[0.0, 0.0, 0.0], [-40.0, -40.0, 40.0], [np.arctanh(0.5)] * 3], np.float32)
  action = GAUSSIAN.to_action(sample)
  assert action.dtype == np.float32
  np.testing.assert_allclose(
    action, [[0, 0.5, 0.25], [-1, -2, 0.5], [0.5, 1.75, 0.375]], rtol=1e-6, atol=1e-7
  )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_action_is_beyond_its_bounds(dtype):
  """Of bounds that rounding would carry it over, in the type that these have."""
  rng = np.random.default_rng(0)
  low, high = np.sort(rng.normal(scale=3, size=(2, 1000)).astype(dtype), axis=0)
  low[:3], high[:3] = [-2.88, -0.8, 0.1], [0.16, 0.8, 0.1 + 1e-8]
  sample = np.array([-40.0, -9.0, -8.5, 0.3, 8.5, 9.0, 40.0], np.float32)[:, None]
  it = SquashedGaussian(low, high)
  action = np.asarray(jax.jit(it.to_action)(jnp.broadcast_to(sample, (7, 1000))))
  assert action.dtype == np.float32
  fits = np.nextafter(low.astype(np.float32), np.float32(9), dtype=np.float32) < high
  assert fits.sum() > 990
  assert np.all((low <= action) & (action <= high), axis=0)[fits].all()
  np.testing.assert_allclose(action[0], low, rtol=1e-6, atol=1e-6)
  np.testing.assert_allclose(action[-1], high, rtol=1e-6, atol=1e-6)
  # Within the bounds nothing is changed.
  middle = (low + (high - low) * (np.tanh(sample[3]) + 1) / 2).astype(np.float32)
  np.testing.assert_allclose(action[3], middle, rtol=2e-6, atol=1e-6)


# Action spaces.


def test_action_spaces():
  assert for_action_spec(specs.DiscreteArray(4)).size == 4
  assert for_action_spec(specs.BoundedArray((3,), float, -1, LOW + 1)).size == 6


@pytest.mark.parametrize(
  "spec",
  [
    specs.BoundedArray((2,), np.float64, -1e10, 1e10),  # LQR
    specs.BoundedArray((2,), np.float32, -np.inf, 1),
    specs.BoundedArray((2, 2), np.float32, -1, 1),
    specs.BoundedArray((2,), np.int32, 0, 3),
    specs.Array((2,), np.float32),
  ],
)
def test_action_spaces_that_no_policy_serves(spec):
  with pytest.raises(UserError, match=f"no policy serves the action space {re.escape(str(spec))}"):
    for_action_spec(spec)

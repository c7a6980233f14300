"""PB2: its Gaussian process against plain linear algebra, and what copies choose by it."""

import itertools
import math

import numpy as np
import pytest

from selftune.core.api.contracts import ExploreInputs, Interval, Number
from selftune.plugins.populations import pb2
from selftune.plugins.populations._gaussian_process import (
  Data,
  Kernel,
  fitted,
  log_likelihood,
  mean_and_variance,
)
from selftune.plugins.populations.pb2 import PB2

KERNEL = Kernel(length=0.3, epsilon=0.2, noise=0.05)
NUMBERS = {"a.rate": Number(1e-4, 1e-2, "log"), "a.gamma": Number(0.9, 0.999, "odds")}
NAN, INF = math.nan, math.inf


def rng(seed=0):
  return np.random.default_rng(seed)


def observed(n=9, d=2, seed=0):
  return Data(
    rng(seed).random((n, d)), np.sort(rng(seed).integers(0, 4, n)), rng(seed).normal(size=n)
  )


def covariance(x, i, y, j):
  """Two loops: exp(-|x - y|^2 / (2 length^2)) (1 - epsilon)^(|i - j| / 2)."""
  found = np.empty((len(x), len(y)))
  for a, b in itertools.product(range(len(x)), range(len(y))):
    square = sum((p - q) ** 2 for p, q in zip(x[a], y[b], strict=True))
    found[a, b] = math.exp(-square / (2 * 0.3**2)) * 0.8 ** (abs(i[a] - j[b]) / 2)
  return found


def test_posterior_by_an_explicit_inverse():
  data = observed()
  x, i = rng(1).random((5, 2)), np.array([4, 4, 0, 2, 4])
  inverse = np.linalg.inv(covariance(data.x, data.i, data.x, data.i) + 0.05 * np.eye(9))
  k = covariance(data.x, data.i, x, i)
  mean, variance = mean_and_variance(KERNEL, data, x, i)
  np.testing.assert_allclose(mean, k.T @ inverse @ data.y, rtol=1e-9)
  np.testing.assert_allclose(variance, 1 - np.diag(k.T @ inverse @ k), rtol=1e-9)
  none = Data(np.zeros((0, 2)), np.zeros(0), np.zeros(0))
  np.testing.assert_array_equal(mean_and_variance(KERNEL, none, x, i), [[0] * 5, [1] * 5])


def test_likelihood_by_determinant_and_inverse():
  data = observed()
  whole = covariance(data.x, data.i, data.x, data.i) + 0.05 * np.eye(9)
  want = -0.5 * data.y @ np.linalg.inv(whole) @ data.y - 0.5 * math.log(np.linalg.det(whole))
  assert log_likelihood(KERNEL, data) == pytest.approx(want, rel=1e-9)


def test_the_kernel_is_the_one_that_made_the_data():
  x, i = rng(2).random((120, 1)), np.repeat(np.arange(6.0), 20)
  for true in (Kernel(0.1, 0.0, 0.01), Kernel(0.4, 0.5, 0.1)):
    of_data = true.covariance(x, i, x, i) + true.noise * np.eye(120)
    y = np.linalg.cholesky(of_data) @ rng(3).normal(size=120)
    found, data = fitted(Data(x, i, y)), Data(x, i, y)
    assert (found.epsilon, found.noise) == (true.epsilon, true.noise)
    assert log_likelihood(found, data) >= log_likelihood(true, data)
    assert found.length / true.length in (1, 2)


def interval(settings, gains, began=0.0):
  gains = np.asarray(gains, float)
  columns = {name: np.asarray(values, float) for name, values in settings.items()}
  return Interval(columns, np.full(len(gains), began), began + gains)


def test_what_is_known_in_plain_numbers():
  """On the scale of the numbers, newest gains, those of diverged runs the least of all."""
  rates, gammas = [1e-4, 1e-3, 1e-2, 1e-3], [0.9, 0.999, 0.9, 0.999]
  both = {"a.rate": rates, "a.gamma": gammas}
  history = (
    interval(both, [NAN, 5.0, 5.0, 5.0]),
    interval(both, [1.0, 4.0, NAN, -INF])._replace(began=np.array([0, 0, 0, NAN])),
  )
  x = ExploreInputs(np.arange(4), NUMBERS, both, history)
  data = pb2.known(x, 4)
  np.testing.assert_allclose(data.x, [[0.5, 1], [0, 0], [0.5, 1], [0.5, 1]], atol=1e-9)
  np.testing.assert_array_equal(data.i, [0, 1, 1, 1])
  y = np.array([5.0, 1.0, 4.0, 1.0])
  np.testing.assert_allclose(data.y, (y - y.mean()) / y.std())
  back = pb2.from_cube(NUMBERS, pb2.to_cube(NUMBERS, history[0].settings))
  for name, values in both.items():
    np.testing.assert_allclose(back[name], values)
  alike = pb2.known(x._replace(history=history[:1]), 9)
  np.testing.assert_array_equal(alike.y, [0, 0, 0])


def population(best_of, intervals=6, runs=16, seed=0):
  """Runs whose gain falls off with the distance from `best_of(interval)`, in a cube of one side."""
  numbers, draws, history = {"a.rate": NUMBERS["a.rate"]}, rng(seed), []
  for i in range(intervals):
    u = draws.random((runs, 1))
    gains = np.exp(-((u[:, 0] - best_of(i)) ** 2) / 0.02)
    history.append(interval(pb2.from_cube(numbers, u), gains))
  parents = np.arange(runs)
  parents[:4] = 8
  return ExploreInputs(parents, numbers, history[0].settings, tuple(history))


def chosen(x, **more):
  found = PB2(**more)(rng(5), x)
  return pb2.to_cube(x.numbers, found)[:, 0]


def test_copies_go_where_gains_were_great_and_not_all_to_one_place():
  x = population(lambda i: 0.7)
  u, own = chosen(x), pb2.to_cube(x.numbers, x.history[-1].settings)
  np.testing.assert_allclose(u[:4], 0.7, atol=0.12)
  assert np.diff(np.sort(u[:4])).min() > 0
  np.testing.assert_allclose(u[4:], own[4:, 0])  # who is no copy stays


def test_what_was_long_ago_counts_less():
  moving = population(lambda i: 0.2 if i < 3 else 0.8)
  np.testing.assert_allclose(chosen(moving)[:4], 0.8, atol=0.12)
  lately = ExploreInputs(*moving[:3], moving.history[::-1])
  np.testing.assert_allclose(chosen(lately)[:4], 0.2, atol=0.12)


def test_without_gains_copies_keep_apart():
  x = population(lambda i: 0.5, intervals=1, runs=5, seed=1)
  x = x._replace(parents=np.array([4, 4, 4, 3, 4]))
  x.history[0].scores[:] = NAN
  u = chosen(x)
  assert np.diff(np.sort(u[:3])).min() > 0.25
  assert np.abs(u[:3, None] - u[None, 3:]).min() > 0.05
  assert [*chosen(x)] == [*chosen(x)]


def test_numbers_without_bounds_are_refused():
  with pytest.raises(ValueError, match=r"explore @pb2\(\) takes bounds: population.bounds\['x'\]"):
    PB2().check({"x": Number(0, INF, "log")})
  PB2().check(NUMBERS)

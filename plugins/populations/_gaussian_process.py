"""A Gaussian process whose function drifts from one interval to the next (Bogunovic et al. 2016).

    f_1 = g_1,  f_{i+1} = sqrt(1 - epsilon) f_i + sqrt(epsilon) g_{i+1},  g_i ~ GP(0, k)
    cov(f_i(x), f_j(x')) = k(x, x') (1 - epsilon)^(|i - j| / 2)

with k(x, x') = exp(-|x - x'|^2 / (2 length^2)), and noise of a variance that is added to every
observation. x are N points in D dimensions, [N, D], and i the number of the interval of each, [N].
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

# The grid of `fitted`: 80 kernels, for each of which the N gains are factored once.
LENGTHS = (0.1, 0.2, 0.4, 0.8, 1.6)  # in units of a cube of side 1
EPSILONS = (0.0, 0.05, 0.2, 0.5)
NOISES = (0.01, 0.1, 0.5, 1.0)  # of observations whose variance is 1


class Kernel(NamedTuple):
  """The hyperparameters of the process."""

  length: float
  epsilon: float
  noise: float  # variance

  def covariance(
    self, x: np.ndarray, i: np.ndarray, other_x: np.ndarray, other_i: np.ndarray
  ) -> np.ndarray:
    """Computes covariances [N, M] of points [N, D], [N] and points [M, D], [M]."""
    squares = np.sum((x[:, None] - other_x[None]) ** 2, axis=-1)
    apart = np.abs(i[:, None] - other_i[None])
    return np.exp(-squares / (2 * self.length**2)) * (1 - self.epsilon) ** (apart / 2)


class Data(NamedTuple):
  """Observations y [N] at points x [N, D] in intervals i [N]."""

  x: np.ndarray
  i: np.ndarray
  y: np.ndarray


def mean_and_variance(
  kernel: Kernel, data: Data, x: np.ndarray, i: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Computes the posterior of f, without noise.

      mu(x) = k(x)^T (K + noise I)^-1 y,  var(x) = 1 - k(x)^T (K + noise I)^-1 k(x)

  Args:
    kernel: of the process.
    data: N observations; none will do.
    x: [M, D].
    i: [M].

  Returns:
    Means and variances, [M] each.
  """
  if not len(data.y):
    return np.zeros(len(x)), np.ones(len(x))
  factor = _factor(kernel, data)
  # One solve by the lower triangle serves both: A^T B = k^T (L L^T)^-1 y of A, B = L^-1 k, L^-1 y.
  solved = np.linalg.solve(factor, kernel.covariance(data.x, data.i, x, i))
  mean = solved.T @ np.linalg.solve(factor, data.y)
  # Rounding may take it below 0, where a standard deviation is NaN.
  return mean, np.maximum(1 - np.sum(solved**2, axis=0), 0)


def log_likelihood(kernel: Kernel, data: Data) -> float:
  """Computes the log density of the observations, without its constant -N/2 log(2 pi)."""
  factor = _factor(kernel, data)
  solved = np.linalg.solve(factor, data.y)
  # log |K + noise I| is twice the sum of the logs of L's diagonal.
  return float(-0.5 * solved @ solved - np.sum(np.log(np.diag(factor))))


def fitted(data: Data) -> Kernel:
  """Returns the kernel of the greatest likelihood on a grid; without data, one in its middle."""
  if not len(data.y):
    return Kernel(0.4, 0.05, 0.1)
  return max(_grid(), key=lambda kernel: log_likelihood(kernel, data))


def _grid() -> Iterator[Kernel]:
  return itertools.starmap(Kernel, itertools.product(LENGTHS, EPSILONS, NOISES))


def _factor(kernel: Kernel, data: Data) -> np.ndarray:
  """Computes the lower triangle L of K + noise I = L L^T, [N, N]."""
  covariance = kernel.covariance(data.x, data.i, data.x, data.i)
  return np.linalg.cholesky(covariance + kernel.noise * np.eye(len(data.y)))

"""Histograms: those of JAX, in other bins, and several as one."""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose

from selftune.core.api.types import Histogram
from selftune.core.record.histograms import is_finite, pooled, rebinned


def test_of_jax_is_that_of_numpy():
  values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
  counts, edges = jax.jit(lambda x: jnp.histogram(x, 8))(values)
  expected_counts, expected_edges = np.histogram(values, 8)
  np.testing.assert_array_equal(counts, expected_counts)
  assert_allclose(edges, expected_edges, rtol=1e-6)
  for value, finite in ((np.nan, False), (np.inf, False), (7.0, True)):
    values[3] = value
    assert is_finite(Histogram(*jnp.histogram(values, 8))) == finite


def test_bins_go_where_their_centres_lie():
  found = rebinned(Histogram(np.array([1, 2, 4]), np.array([0.0, 1, 2, 3])), np.array([-1.0, 1, 4]))
  np.testing.assert_array_equal(found, [1, 6])


def test_several_are_one():
  counts = np.array([[1, 2], [4, 0], [8, 8]])
  edges = np.array([[0.0, 1, 2], [2, 4, 6], [np.nan, 0, 1]])
  found = pooled(Histogram(counts, edges))
  np.testing.assert_array_equal(found.counts, [3, 4])
  np.testing.assert_array_equal(found.edges, [0, 3, 6])
  alone = pooled(Histogram(counts[:1], edges[:1]))
  np.testing.assert_array_equal(alone.counts, counts[0])
  np.testing.assert_array_equal(alone.edges, edges[0])
  assert not is_finite(pooled(Histogram(counts[2:], edges[2:])))

"""Histograms that are logged; in NumPy's form, which is JAX's too."""

import numpy as np

from ..api.types import Histogram


def is_finite(x: Histogram) -> bool:
  """Whether all values were."""
  return bool(np.isfinite(x.edges).all())


def rebinned(x: Histogram, edges: np.ndarray) -> np.ndarray:
  """Counts [M] between other edges, [M + 1]: all of a bin where its centre lies.

  Several histograms, [R, N], are taken together.
  """
  centres = (x.edges[..., 1:] + x.edges[..., :-1]) / 2
  return np.histogram(centres, edges, weights=x.counts)[0]


def pooled(x: Histogram) -> Histogram:
  """One histogram of several, [R, N]; without those that are not finite, unless none is."""
  finite = np.isfinite(x.edges).all(axis=-1)
  if not finite.any():
    return Histogram(x.counts[0], x.edges[0])
  x = Histogram(x.counts[finite], x.edges[finite])
  edges = np.linspace(x.edges.min(), x.edges.max(), x.counts.shape[-1] + 1)
  return Histogram(rebinned(x, edges), edges)

"""Histograms as they are logged and drawn; in NumPy's form, which is JAX's too."""

import numpy as np

from ..api.types import Histogram


def is_finite(x: Histogram) -> bool:
  """Says whether all values were finite, from which counts [N] and edges [N + 1] were made."""
  # NumPy and JAX span the edges from the least to the greatest value, so edges tell of both.
  return bool(np.isfinite(x.edges).all())


def rebinned(x: Histogram, edges: np.ndarray) -> np.ndarray:
  """Counts the values of a histogram between other edges: all of a bin where its centre lies.

  Args:
    x: counts [N], or of several histograms, which are taken together, [R, N].
    edges: ascending, [M + 1].

  Returns:
    Counts [M].
  """
  centres = (x.edges[..., 1:] + x.edges[..., :-1]) / 2
  return np.histogram(centres, edges, weights=x.counts)[0]


def pooled(x: Histogram) -> Histogram:
  """Returns one histogram [N] of several [R, N], of the finite ones; if none is, the first."""
  finite = np.isfinite(x.edges).all(axis=-1)
  if not finite.any():
    return Histogram(x.counts[0], x.edges[0])
  x = Histogram(x.counts[finite], x.edges[finite])
  edges = np.linspace(x.edges.min(), x.edges.max(), x.counts.shape[-1] + 1)
  return Histogram(rebinned(x, edges), edges)

"""Scores: returns of different tasks on one scale."""

from typing import TypeVar

import numpy as np

Returns = TypeVar("Returns", float, np.ndarray)


def normalised(returns: Returns, reference: tuple[float, float]) -> Returns:
  """Normalises returns to (return - low) / (high - low): random play is 0, Atari's human tester 1.

  Args:
    returns: raw ones of a task, a number or [...].
    reference: low and high, of a `ScoredPlugin`.

  Returns:
    The scores, of the same shape.
  """
  low, high = reference
  return (returns - low) / (high - low)

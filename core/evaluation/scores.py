"""Returns of different tasks on one scale."""

from typing import TypeVar

import numpy as np

Returns = TypeVar("Returns", float, np.ndarray)


def normalised(returns: Returns, reference: tuple[float, float]) -> Returns:
  """(return - low) / (high - low): by random play and a human tester in Atari.

  Args:
    returns: raw ones of a task.
    reference: low and high, of a `ScoredPlugin`.
  """
  low, high = reference
  return (returns - low) / (high - low)

"""Ranges: annotations that say which numbers a configuration may give, `mu: NotNegative = 0.001`.

Gin's values are checked against them, and those of `runs.settings`; Python's are not.
"""

import math
from collections.abc import Callable
from types import UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

MAX_STEPS = 27_000  # of an episode that is scored, unless told otherwise: the limit of Atari


class Range(NamedTuple):
  """A range of numbers, in words for messages and as a predicate; its ends, held or not."""

  says: str
  holds: Callable[[float], bool]
  least: float = -math.inf
  greatest: float = math.inf


TINY = 2**-126  # the least positive float32 that XLA does not take for 0
LARGEST = 2**31 - 1  # that an int32 holds, as JAX's counters and EnvPool's settings are

Fraction = Annotated[float, Range("from 0 to 1", lambda x: 0 <= x <= 1, 0, 1)]
Decay = Annotated[float, Range("from 0 to below 1", lambda x: 0 <= x < 1, 0, 1)]
Positive = Annotated[float, Range("above 0", lambda x: x >= TINY, 0)]
NotNegative = Annotated[float, Range("at least 0", lambda x: x >= 0, 0)]
Natural = Annotated[int, Range("at least 0", lambda x: 0 <= x <= LARGEST)]
Seed = Annotated[int, Range("from 0 to 2^32 - 1", lambda x: 0 <= x < 2**32)]
Count = Annotated[int, Range("at least 1", lambda x: 1 <= x <= LARGEST)]
Steps = Annotated[int, Range("at least 1", lambda x: x >= 1)]  # of env, which the host counts


def ranges(annotation: Any) -> list[Range]:
  """Returns the ranges that an annotation holds, or of a union its parts; none of a plain type."""
  if get_origin(annotation) in (Union, UnionType):
    return [x for part in get_args(annotation) for x in ranges(part)]
  return [x for x in get_args(annotation)[1:] if isinstance(x, Range)]

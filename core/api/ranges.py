"""Annotations of numbers that say which values a configuration may give: `mu: NotNegative = 0.001`.

Gin's values are checked against them, and those of `runs.settings`; Python's are not.
"""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, get_args


class Range(NamedTuple):
  """Which numbers, in words and as a predicate."""

  says: str
  holds: Callable[[float], bool]


Fraction = Annotated[float, Range("from 0 to 1", lambda x: 0 <= x <= 1)]
Positive = Annotated[float, Range("above 0", lambda x: x > 0)]
NotNegative = Annotated[float, Range("at least 0", lambda x: x >= 0)]
Natural = Annotated[int, Range("at least 0", lambda x: x >= 0)]
Seed = Annotated[int, Range("from 0 to 2^32 - 1", lambda x: 0 <= x < 2**32)]
Count = Annotated[int, Range("at least 1", lambda x: x >= 1)]


def ranges(annotation: Any) -> list[Range]:
  """The ranges that an annotation holds; none of a plain type."""
  return [x for x in get_args(annotation)[1:] if isinstance(x, Range)]

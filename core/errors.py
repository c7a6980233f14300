"""The errors that a user's mistake or a sick run ends with: one clear message, no traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
  """A mistake in what the user asked for; the command line prints it and exits with 2."""


class ConfigError(UserError):
  """A mistake in a configuration; the message says where it is and what to write instead."""


class NonFiniteError(Exception):
  """A loss or gradient became NaN or infinite; the message names the term and the update."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
  """` Did you mean 'known'?`, or nothing if nothing is close: to append to a message."""
  close = difflib.get_close_matches(word, list(known), n=1)
  return f" Did you mean '{close[0]}'?" if close else ""

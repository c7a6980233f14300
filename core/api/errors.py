"""Errors that end a command by one clear message and no traceback: users' mistakes, sick runs."""

import contextlib
import difflib
from collections.abc import Iterable, Iterator


class UserError(Exception):
  """A mistake in what the user asked for; the command line prints it and exits with 2."""


class ConfigError(UserError):
  """A mistake in a configuration; the message says where it is and what to write instead."""


class RunError(Exception):
  """A run that cannot go on, by no fault of the program: one message, exit code 1."""


class NonFiniteError(RunError):
  """A loss or gradient became NaN or infinite; the message names the term and the update."""


@contextlib.contextmanager
def plugin_mistakes() -> Iterator[None]:
  """Turns a ValueError within it into a UserError: for calls of plugins whose contract says so.

  No wider than such a call: a ValueError of anything else is a bug and keeps its traceback.
  """
  try:
    yield
  except ValueError as error:
    raise UserError(str(error)) from error


def shortened(text: str, most: int = 400) -> str:
  """Returns another library's message as one line; of a long one the beginning and the end."""
  line = " ".join(text.split())
  return line if len(line) <= most else f"{line[: most // 2]} [...] {line[-most // 2 :]}"


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
  """Returns ` Did you mean 'known'?` to append to a message, or '' if no known word is close."""
  close = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
  return f" Did you mean '{close[0]}'?" if close else ""

"""The errors that a user's mistake or a sick run ends with: one clear message, no traceback."""


class UserError(Exception):
  """A mistake in what the user asked for; the command line prints it and exits with 2."""


class NonFiniteError(Exception):
  """A loss or gradient became NaN or infinite; the message names the term and the update."""

"""Scoring an agent in environments of its own: after training, beside it, and on video."""

MAX_STEPS = 27_000  # of an episode, unless told otherwise: Atari's, the longest that has a limit

"""Evaluation of an agent in environments of its own: after training, beside it, and on video."""

"""Checkpoints: written beside training, read and verified."""

from .checkpointer import Checkpointer, Restored

__all__ = ["Checkpointer", "Restored"]

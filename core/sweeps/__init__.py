"""Sweeps: a file of W&B's, its points as processes, on Ray, or as one program."""

"""Sweeps: a file's points as processes, on Ray, or as one program; and populations of such."""

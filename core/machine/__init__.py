"""The machine under a run: devices, signals, locks, other processes, seeds."""

"""Records of a run, which it leaves behind: its files, logs, checkpoints and pictures."""

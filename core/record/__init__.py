"""What a run leaves behind: its files, logs, checkpoints and pictures."""

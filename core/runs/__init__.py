"""Independent runs of one agent as one program, on the device or in one pool on the host."""

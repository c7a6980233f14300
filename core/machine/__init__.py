"""What a process asks of the machine: devices, other processes, seeds."""

"""Environments: suites on the host, and functional ones that can run on the device."""

"""Registered components; every module below a folder here is found by core.config.discovery."""

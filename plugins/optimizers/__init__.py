"""Optimisers of the agent's parameters."""

"""Meta-optimisers: they own the whole update of an agent."""

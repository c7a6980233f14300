"""Checks of an author's plugins: what `selftune check` asks of each kind, and of a whole agent."""

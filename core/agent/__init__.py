"""The agent as pure functions: acting, the loss, one update."""

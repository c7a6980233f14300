"""The framework: data types, contracts, registry, learner, actors and runtime."""

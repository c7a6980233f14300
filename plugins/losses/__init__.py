"""Loss terms and off-policy correctors."""

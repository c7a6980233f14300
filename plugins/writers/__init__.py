"""Writers: where metrics go."""

"""Writers: the logs that metrics, episodes and pictures go to."""

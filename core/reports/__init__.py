"""What many runs say of agents: statistics, figures and one page."""

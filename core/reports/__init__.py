"""Reports that compare agents over many runs: statistics, figures and one page."""

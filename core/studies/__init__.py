"""Studies: agents in environments with many settings and seeds; what is tuning worth to them."""

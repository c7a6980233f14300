"""Step-size tuners: they adapt the step sizes of an online learner at every step."""

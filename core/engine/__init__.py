"""What trains: actors, where their trajectories come from, the learner and the loop."""

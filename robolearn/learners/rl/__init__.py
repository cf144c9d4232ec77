"""Learning from rewards, offline and online: one learner for every preset of the one agent (robolearn.agents)."""

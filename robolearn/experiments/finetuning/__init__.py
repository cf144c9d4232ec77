"""Fine-tuning the one agent (robolearn.agents) by two processes that share nothing but files.

    actor    flies; appends whole episodes to online.zarr; takes the newest weights before an episode
    learner  reads new episodes from online.zarr; learns; publishes weights atomically; keeps its whole state

Either may be killed at any instant: what is lost is the episode that was being flown, and updates since the last kept state.
"""

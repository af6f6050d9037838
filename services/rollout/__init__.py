"""The rollout service: jobs over HTTP, episodes against the engines, trajectories to the stream."""

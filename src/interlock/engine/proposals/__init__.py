"""One proposal while it runs: its data, the pool that takes its actions, and what tools see of it."""

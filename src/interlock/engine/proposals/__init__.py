"""One proposal while it runs: its data, the pool that runs its actions, and its tools' view of the runtime."""

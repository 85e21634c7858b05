"""The machine: its clocks, ids and user, and the place of a project's state."""

"""The machine: its clocks, its ids, its user, and where a project keeps its state."""

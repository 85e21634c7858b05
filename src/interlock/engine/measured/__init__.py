"""Measured runs: a person's own command, run in the foreground and recorded. It does not go through the gate."""

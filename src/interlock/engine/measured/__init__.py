"""Measured runs: a person's own command, run in the foreground and on record. It does not go through the gate."""

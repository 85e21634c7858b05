"""Runs: one journal each, begun, resumed, recovered, undone and kept."""

"""Runs, each with one journal: they are started, resumed, recovered, undone and kept here."""

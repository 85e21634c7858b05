"""Checks that a plan is well formed. Pure: no clock, no I/O, no await."""

"""Answers "is this plan well formed?". Pure: no clock, no I/O, no await."""

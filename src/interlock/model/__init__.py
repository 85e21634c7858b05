"""Defines the data: no I/O, no clock, no imports from other rooms."""

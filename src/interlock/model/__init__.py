"""Names the data: no I/O, no clock, nothing of ours imported."""

"""Records of runs: events, rows and counts, for a live run and for the replay of a journal."""

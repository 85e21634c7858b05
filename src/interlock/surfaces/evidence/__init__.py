"""The surface for evidence: writes archives of runs, from the command line and from Python."""

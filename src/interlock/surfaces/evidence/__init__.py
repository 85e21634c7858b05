"""The door to what a run can show: writes archives, from the command line and from Python."""

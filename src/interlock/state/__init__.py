"""Keys and values, and the results of calls, which the runs of a workspace share."""

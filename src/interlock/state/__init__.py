"""Stores keys and values, and the results of calls, across runs of a workspace."""

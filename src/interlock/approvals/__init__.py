"""Remembers questions and answers, grants and approvers, across processes and restarts (step 6)."""

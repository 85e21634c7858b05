"""Inspects a project without changing it: doctor, history, explanations, policies."""

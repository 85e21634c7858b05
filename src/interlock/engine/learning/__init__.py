"""Connects the package `learning` with the runs of a runtime. No other part of the engine imports `learning` (ADR 67)."""

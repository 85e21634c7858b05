"""Binds the room `learning` to the runs of a runtime. No other part of the engine imports that room (ADR 67)."""

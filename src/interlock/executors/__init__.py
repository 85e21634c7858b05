"""Touches the world: Python functions, processes, and the built-in tools. Each hands `Binding`s to the engine."""

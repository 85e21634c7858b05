"""Executors perform actions: Python functions, processes and the built-in tools. Each provides `Binding`s to the engine."""

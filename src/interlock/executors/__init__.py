"""Executors perform actions: Python functions, processes, and the built-in tools. Each gives the engine its `Binding`s."""

"""Doors: each talks to a person or a protocol. They translate and render; they decide nothing, and never import each other."""

"""Surfaces: each talks to a person or a protocol. They translate and render; they make no decisions, and never import each
other.
"""

"""Surfaces: interfaces for people and protocols. They translate and render, make no decisions, and never import each other."""

"""Builds walls: the fork server that starts processes, and the layers around them. Layer L0 so far."""

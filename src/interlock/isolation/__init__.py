"""Builds walls: the fork server that starts processes, the layers around them, and the egress proxy. Layer L0 so far."""

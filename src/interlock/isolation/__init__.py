"""Builds walls: the fork server that starts processes, the layers of isolation around them, and the egress proxy."""

"""The judges of steps 2 to 5 that are in force, and how they are built and replaced."""

"""The judges of steps 2 to 5: those in force, and the code that builds and replaces them."""

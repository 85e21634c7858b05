"""The tools that are registered, the threads that run them, and what is kept of their errors."""

"""The registered tools, the threads that run them, and the errors that they raise."""

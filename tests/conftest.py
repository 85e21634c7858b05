"""For all tests: none asserts how quick the machine is, not even through hypothesis."""

import signal

from hypothesis import HealthCheck, settings

settings.register_profile("any machine", parent=settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# A suite started in the background inherits an ignored Ctrl-C, and so would every command that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

"""For all tests: none asserts how quick the machine is, not even through hypothesis.

Properties are tried with the same examples each time, so a change is judged by what it changed. New examples are
searched with `scripts/test --hypothesis-profile=search`; what that finds becomes a test of its own.
"""

import signal

from hypothesis import HealthCheck, settings

settings.register_profile("search", parent=settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("any machine", parent=settings.get_profile("search"), derandomize=True, database=None)
settings.load_profile("any machine")

# A suite started in the background, or by nohup, inherits ignored signals, and so would every command that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

"""Fakes for tests: a clock, ids, a disk that crashes, and conformance suites for every plug-in interface."""

from interlock.testing.clock import CountingIds, FakeClock
from interlock.testing.disk import CrashingDisk, SimulatedCrash

__all__ = ["CountingIds", "CrashingDisk", "FakeClock", "SimulatedCrash"]

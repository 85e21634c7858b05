"""Measures the machine: snapshots once a second, the resource guard, an action's own use, OpenTelemetry spans."""

from interlock.telemetry.guard import GuardLimits, Reading, ResourceGuard
from interlock.telemetry.otel import Spans
from interlock.telemetry.own import Meter
from interlock.telemetry.sampler import Sampler
from interlock.telemetry.snapshot import Snapshot, diff, expand, report

__all__ = [
    "GuardLimits",
    "Meter",
    "Reading",
    "ResourceGuard",
    "Sampler",
    "Snapshot",
    "Spans",
    "diff",
    "expand",
    "report",
]

"""Measures the machine and what was done on it.

Snapshots once a second, the resource guard, an action's own use, spans and metrics.
"""

from typing import TYPE_CHECKING

from interlock.lazy import lazy_exports

if TYPE_CHECKING:
    from interlock.telemetry.guard import GuardLimits, Reading, ResourceGuard
    from interlock.telemetry.metrics import MetricPoint, Metrics
    from interlock.telemetry.otel import Export
    from interlock.telemetry.own import Meter
    from interlock.telemetry.sampler import Sampler
    from interlock.telemetry.snapshot import Snapshot, diff, expand, report
    from interlock.telemetry.spans import SpanRecord, Spans, spans_of
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "Export": "otel",
            "GuardLimits": "guard",
            "Meter": "own",
            "MetricPoint": "metrics",
            "Metrics": "metrics",
            "Reading": "guard",
            "ResourceGuard": "guard",
            "Sampler": "sampler",
            "Snapshot": "snapshot",
            "SpanRecord": "spans",
            "Spans": "spans",
            "diff": "snapshot",
            "expand": "snapshot",
            "report": "snapshot",
            "spans_of": "spans",
        },
    )

__all__ = [
    "Export",
    "GuardLimits",
    "Meter",
    "MetricPoint",
    "Metrics",
    "Reading",
    "ResourceGuard",
    "Sampler",
    "Snapshot",
    "SpanRecord",
    "Spans",
    "diff",
    "expand",
    "report",
    "spans_of",
]

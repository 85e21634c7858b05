"""Hands spans and metrics to the OpenTelemetry SDK. Needs the extra `otel`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from interlock.model.errors import ConfigurationError
from interlock.model.events import Event
from interlock.model.extras import how_to_install
from interlock.telemetry.metrics import DURATION_BOUNDS_S, UNITS, Attributes, Metrics
from interlock.telemetry.spans import Key, Span, Spans, SpanStatus

if TYPE_CHECKING:
    from opentelemetry.metrics import Histogram
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as SdkSpan

_NS_PER_US: Final = 1000
_SEND_S: Final = 2
"""Seconds that an unreachable collector may delay the end of a run. It never delays the exit of the process."""


class Export:
    """Takes the events of any number of runs, each run's in order, and hands their spans and metrics to the SDK."""

    def __init__(self, tracers: TracerProvider, meters: MeterProvider | None = None) -> None:
        """Spans go to a tracer provider of the SDK, metrics to a meter provider (None: no metrics)."""
        self._tracers = tracers
        self._meters = meters
        self._spans = Spans(_Tracer(tracers))
        self._metrics = None if meters is None else Metrics(_Meters(meters))

    @classmethod
    def to(cls, endpoint: str) -> Export:
        """Returns an export to an OTLP collector over HTTP, for example `http://127.0.0.1:4318`.

        Raises: ConfigurationError `extra_missing` if the extra is not installed.
        """
        try:
            from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter  # noqa: PLC0415
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
            from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415
            from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader  # noqa: PLC0415
            from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
            from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
            from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        except ImportError:
            raise ConfigurationError(
                "`telemetry.otel` is set, but OpenTelemetry is not installed",
                code="extra_missing",
                path="telemetry.otel",
                hint=f"{how_to_install('otel')}; or remove the setting",
            ) from None
        base, resource = endpoint.rstrip("/"), Resource.create({"service.name": "interlock"})
        tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
        spans = OTLPSpanExporter(endpoint=f"{base}/v1/traces", timeout=_SEND_S)
        tracers.add_span_processor(BatchSpanProcessor(spans))
        metrics = OTLPMetricExporter(endpoint=f"{base}/v1/metrics", timeout=_SEND_S)
        reader = PeriodicExportingMetricReader(metrics, export_timeout_millis=_SEND_S * 1000)
        return cls(tracers, MeterProvider([reader], resource=resource, shutdown_on_exit=False))

    def __call__(self, run_id: str, event: Event) -> None:
        """Take the next event of a run."""
        self._spans(run_id, event)
        if self._metrics is not None:
            self._metrics(run_id, event)

    def close(self) -> None:
        """End the spans that are still open, and give the exporters two seconds to send what they have. Nothing may follow."""
        self._spans.close()
        self._tracers.force_flush(_SEND_S * 1000)
        self._tracers.shutdown()
        if self._meters is not None:
            self._meters.shutdown(_SEND_S * 1000)


class _Tracer:
    """Makes spans of the SDK, which assigns their ids."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry import trace  # noqa: PLC0415 - an optional extra

        self._trace = trace
        self._tracer = provider.get_tracer("interlock")

    def start(
        self,
        key: Key,  # noqa: ARG002 - the SDK makes its own ids
        name: str,
        parent: Span | None,
        at_us: int,
        attributes: dict[str, str | int | bool],
    ) -> Span:
        assert parent is None or isinstance(parent, _Span)
        above = self._trace.INVALID_SPAN if parent is None else parent.sdk
        context = self._trace.set_span_in_context(above)
        sdk = self._tracer.start_span(name, context=context, start_time=at_us * _NS_PER_US, attributes=attributes)
        return _Span(sdk, self._trace)


class _Span:
    """A span of the SDK."""

    def __init__(self, sdk: SdkSpan, trace: Any) -> None:
        self.sdk = sdk
        self._trace = trace

    def rename(self, name: str) -> None:
        self.sdk.update_name(name)

    def set(self, name: str, value: str | int | bool) -> None:
        self.sdk.set_attribute(name, value)

    def add_event(self, name: str, at_us: int) -> None:
        self.sdk.add_event(name, timestamp=at_us * _NS_PER_US)

    def end(self, at_us: int | None, status: SpanStatus, reason: str) -> None:
        code = self._trace.StatusCode
        if status == "ok":
            self.sdk.set_status(code.OK)
        elif status == "error":
            self.sdk.set_attribute("error.type", reason)
            self.sdk.set_status(code.ERROR, reason)
        elif reason:
            self.sdk.set_attribute("interlock.reason", reason)
        self.sdk.end(None if at_us is None else at_us * _NS_PER_US)


class _Meters:
    """Instruments of the SDK, created when first used."""

    def __init__(self, provider: MeterProvider) -> None:
        self._meter = provider.get_meter("interlock")
        self._counters: dict[str, Any] = {}
        self._histograms: dict[str, Histogram] = {}

    def count(self, name: str, attributes: Attributes) -> None:
        counter = self._counters.get(name)
        if counter is None:
            counter = self._counters[name] = self._meter.create_counter(name, unit=UNITS[name])
        counter.add(1, attributes)

    def record(self, name: str, seconds: float, attributes: Attributes) -> None:
        histogram = self._histograms.get(name)
        if histogram is None:
            histogram = self._histograms[name] = self._meter.create_histogram(
                name, unit=UNITS[name], explicit_bucket_boundaries_advisory=DURATION_BOUNDS_S
            )
        histogram.record(seconds, attributes)

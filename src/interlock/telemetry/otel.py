"""OpenTelemetry spans, derived from a run's events: nothing is measured twice, and no tool is called differently for it.

    proposal.execute                one a proposal; root
      action.{type}                 one an action; ok if it succeeded, error if it failed or was rejected, else unset
        execute_tool {tool}         one an attempt

Names and attributes follow the semantic conventions for generative AI (`gen_ai.operation.name`, `gen_ai.tool.name`,
`gen_ai.tool.call.id`, `gen_ai.agent.name`, `gen_ai.conversation.id`) and `interlock.*` for the rest. Parameters and outputs
never become attributes. Needs the extra `otel`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from interlock.model import events as e
from interlock.model.errors import ConfigurationError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

_NS_PER_US: Final = 1000
_SEND_S: Final = 2


class Spans:
    """Takes events in the order of the journal (of any number of proposals) and ends spans with their own time stamps."""

    def __init__(self, provider: TracerProvider) -> None:
        """Spans go to a tracer provider of the OpenTelemetry SDK."""
        from opentelemetry import trace  # noqa: PLC0415 - an optional extra

        self._trace = trace
        self._provider = provider
        self._tracer = provider.get_tracer("interlock")
        self._run: dict[str, Any] = {}
        self._proposals: dict[str, Span] = {}
        self._actions: dict[tuple[str, str], Span] = {}
        self._attempts: dict[tuple[str, str], Span] = {}
        self._types: dict[tuple[str, str], str] = {}

    @classmethod
    def to(cls, endpoint: str) -> Spans:
        """Spans to an OTLP collector over HTTP, for example `http://127.0.0.1:4318`.

        Raises ConfigurationError `extra_missing` if the extra is not installed.
        """
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
            from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
            from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
            from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        except ImportError:
            raise ConfigurationError(
                "`telemetry.otel` is set, but OpenTelemetry is not installed",
                code="extra_missing",
                path="telemetry.otel",
                hint="run `pip install interlock[otel]`, or remove the setting",
            ) from None
        # A collector that is away may cost the end of a run two seconds, and its exit nothing.
        provider = TracerProvider(resource=Resource.create({"service.name": "interlock"}), shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=endpoint.rstrip("/") + "/v1/traces", timeout=_SEND_S)
        provider.add_span_processor(BatchSpanProcessor(exporter))
        return cls(provider)

    def __call__(self, event: e.Event) -> None:
        """Take the next event."""
        match event:
            case e.RunStarted():
                self._run = {"interlock.run.id": event.run, "gen_ai.agent.name": event.agent}
                if event.session:
                    self._run["gen_ai.conversation.id"] = event.session
            case e.ProposalReceived():
                self._begin_proposal(event)
            case e.ProposalRejected():
                self._begin_proposal(event)
                self._end_proposal(event, "rejected", event.code)
            case e.ProposalFinished():
                self._end_proposal(event, event.status, event.status)
            case e.RunFinished():
                self._end_open(event.ts)
            case _ if event.proposal is not None and event.action is not None:
                self._action(event, (event.proposal, event.action))
            case _:
                pass  # nothing that a span shows

    def close(self) -> None:
        """End what is still open, and give the exporter two seconds to send what it has. Nothing may come after."""
        self._end_open(None)
        self._provider.force_flush(_SEND_S * 1000)
        self._provider.shutdown()

    def _end_open(self, ts: int | None) -> None:
        """End what is still open; its status stays unset, because nobody knows."""
        for spans in (self._attempts, self._actions, self._proposals):
            for span in spans.values():
                span.end(None if ts is None else ts * _NS_PER_US)
            spans.clear()
        self._types.clear()

    def _begin_proposal(self, event: e.ProposalReceived | e.ProposalRejected) -> None:
        attributes = {
            **self._run,
            "gen_ai.operation.name": "invoke_agent",
            "interlock.proposal.id": event.proposal or "",
        }
        if isinstance(event, e.ProposalReceived):
            attributes |= {
                "gen_ai.agent.name": event.agent,
                "interlock.source": event.source,
                "interlock.action_count": event.action_count,
                "interlock.dry_run": event.dry_run,
            }
            self._remember_types(event)
        self._proposals[event.proposal or ""] = self._tracer.start_span(
            "proposal.execute",
            context=self._trace.set_span_in_context(self._trace.INVALID_SPAN),
            start_time=event.ts * _NS_PER_US,
            attributes=attributes,
        )

    def _remember_types(self, event: e.ProposalReceived) -> None:
        view = event.document.view
        actions = view.get("actions", ()) if isinstance(view, dict) else ()
        for action in actions:
            if isinstance(action, dict) and action.get("id") and action.get("type"):
                self._types[event.proposal or "", action["id"]] = str(action["type"])

    def _end_proposal(self, event: e.Event, status: str, description: str) -> None:
        proposal = event.proposal or ""
        for spans in (self._attempts, self._actions):
            for key in [k for k in spans if k[0] == proposal]:
                spans.pop(key).end(event.ts * _NS_PER_US)
        for key in [k for k in self._types if k[0] == proposal]:
            del self._types[key]
        span = self._proposals.pop(proposal, None)
        if span is not None:
            span.set_attribute("interlock.status", status)
            good = {"succeeded": True, "failed": False, "rejected": False}.get(status)
            self._end(span, event.ts, good, description)

    def _action(self, event: e.Event, key: tuple[str, str]) -> None:
        match event:
            case e.ActionIntent():
                self._begin_attempt(event, key)
            case e.ActionSucceeded():
                self._end_attempt(event, key, True)
                self._end_action(event, key, True, "succeeded")
            case e.ActionDeduplicated():
                self._end_action(event, key, True, "succeeded")
            case e.ActionFailed():
                self._end_attempt(event, key, False, event.reason)
                if event.final:
                    self._end_action(event, key, False, "failed", event.reason)
            case e.ActionRejected():
                self._end_action(event, key, False, "rejected", event.reason)
            case e.ActionSkipped():
                self._end_action(event, key, None, "skipped", event.reason)
            case e.ActionCancelled() | e.ActionUnknown():
                status = "cancelled" if isinstance(event, e.ActionCancelled) else "unknown_outcome"
                self._end_attempt(event, key, None)
                self._end_action(event, key, None, status, event.reason)
            case e.ActionHeld() | e.HoldResolved() | e.ActionWaiting() | e.ActionRetrying() | e.PolicyDecided():
                self._open_action(event, key).add_event(
                    str(event.__struct_config__.tag), timestamp=event.ts * _NS_PER_US
                )
            case _:
                pass  # undo, logs and state: the journal has them

    def _open_action(self, event: e.Event, key: tuple[str, str]) -> Span:
        span = self._actions.get(key)
        if span is None:
            parent = self._proposals.get(key[0], self._trace.INVALID_SPAN)
            span = self._actions[key] = self._tracer.start_span(
                f"action.{self._types.get(key, 'unknown')}",
                context=self._trace.set_span_in_context(parent),
                start_time=event.ts * _NS_PER_US,
                attributes={**self._run, "interlock.proposal.id": key[0], "interlock.action.id": key[1]},
            )
        return span

    def _begin_attempt(self, event: e.ActionIntent, key: tuple[str, str]) -> None:
        action = self._open_action(event, key)
        if event.tool is None:
            return
        action.update_name("action.tool_call")
        self._attempts[key] = self._tracer.start_span(
            f"execute_tool {event.tool}",
            context=self._trace.set_span_in_context(action),
            start_time=event.ts * _NS_PER_US,
            attributes={
                **self._run,
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": event.tool,
                "gen_ai.tool.type": "function",
                "gen_ai.tool.call.id": key[1],
                "interlock.proposal.id": key[0],
                "interlock.attempt": event.attempt,
                "interlock.read_only": event.read_only,
            },
        )

    def _end_attempt(self, event: e.Event, key: tuple[str, str], good: bool | None, reason: str = "") -> None:
        span = self._attempts.pop(key, None)
        if span is not None:
            self._end(span, event.ts, good, reason)

    def _end_action(
        self, event: e.Event, key: tuple[str, str], good: bool | None, status: str, reason: str = ""
    ) -> None:
        span = self._open_action(event, key)
        del self._actions[key]
        span.set_attribute("interlock.status", status)
        if isinstance(event, e.ActionDeduplicated):
            span.set_attribute("interlock.deduplicated_from", event.source)
        self._end(span, event.ts, good, reason)

    def _end(self, span: Span, ts: int, good: bool | None, reason: str) -> None:
        """`reason` is a code (never a message of a tool, which may hold anything)."""
        code = self._trace.StatusCode
        if good is True:
            span.set_status(code.OK)
        elif good is False:
            span.set_attribute("error.type", reason)
            span.set_status(code.ERROR, reason)
        elif reason:
            span.set_attribute("interlock.reason", reason)
        span.end(ts * _NS_PER_US)

"""Spans, made from a run's events: nothing is measured twice, and no tool is called differently because of them.

    proposal.execute                one per proposal; root
      action.{type}                 one per action; ok if it succeeded, error if it failed or was rejected, else unset
        execute_tool {tool}         one per attempt

Names and attributes follow the semantic conventions for generative AI (`gen_ai.operation.name`, `gen_ai.tool.name`,
`gen_ai.tool.call.id`, `gen_ai.agent.name`, `gen_ai.conversation.id`), and `interlock.*` is used for the rest. Parameters and
outputs never become attributes. `Records` makes plain records; `otel` hands the spans to the OpenTelemetry SDK.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any, Final, Literal, Protocol, Self

import msgspec

from interlock.model import events as e

SpanStatus = Literal["ok", "error", "unset"]
_SHOWN: Final = (
    e.ActionHeld, e.HoldResolved, e.ToolAsked, e.ToolAnswered, e.ActionWaiting, e.ActionRetrying, e.PolicyDecided,
)  # fmt: skip
"""Events that are shown as span events of their action."""
Key = tuple[str, ...]
"""Identifies a span: run, proposal, and action if it has one."""


class SpanRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A span that has ended. Its ids depend only on the run, so the same journal gives the same ids."""

    trace_id: str
    """32 hexadecimal digits, the same for all spans of a proposal."""
    span_id: str
    """16 hexadecimal digits."""
    parent_id: str | None
    name: str
    start_us: int
    """Microseconds since the epoch."""
    end_us: int | None
    """None if the run ended without recording the outcome."""
    status: SpanStatus
    reason: str = ""
    """Set for an error, and for `unset`: a code, never a tool's message."""
    attributes: dict[str, str | int | bool] = {}
    events: tuple[tuple[str, int], ...] = ()
    """Span events: name and time (microseconds since the epoch)."""


class Span(Protocol):
    """A span that has begun."""

    def rename(self, name: str) -> None:
        """Change the name."""
        ...

    def set(self, name: str, value: str | int | bool) -> None:
        """Set an attribute."""
        ...

    def add_event(self, name: str, at_us: int) -> None:
        """Add an event to the span."""
        ...

    def end(self, at_us: int | None, status: SpanStatus, reason: str) -> None:
        """End the span; nothing may follow."""
        ...


class Tracer(Protocol):
    """Creates spans."""

    def start(
        self, key: Key, name: str, parent: Span | None, at_us: int, attributes: dict[str, str | int | bool]
    ) -> Span:
        """Begin a span. `key` is unique among the spans of a run."""
        ...


class Spans:
    """Takes the events of any number of runs, each run's in order, and begins and ends spans at the events' times."""

    def __init__(self, tracer: Tracer) -> None:
        """Starts with no spans."""
        self._tracer = tracer
        self._runs: dict[str, dict[str, str | int | bool]] = {}
        """The attributes that every span of a run has."""
        self._proposals: dict[Key, Span] = {}
        self._actions: dict[Key, Span] = {}
        self._attempts: dict[Key, Span] = {}
        self._types: dict[Key, str] = {}

    @classmethod
    def to(cls, sink: Callable[[SpanRecord], None]) -> Self:
        """Produces plain records. `sink` gets each span when it has ended, inner spans before outer ones."""
        return cls(Records(sink))

    def __call__(self, run_id: str, event: e.Event) -> None:
        """Take the next event of a run."""
        match event:
            case e.RunStarted():
                self._runs[run_id] = {"interlock.run.id": run_id, "gen_ai.agent.name": event.agent}
                if event.session:
                    self._runs[run_id]["gen_ai.conversation.id"] = event.session
            case e.ProposalReceived() | e.ProposalRejected():
                self._begin_proposal(run_id, event)
                if isinstance(event, e.ProposalRejected):
                    self._end_proposal((run_id, event.proposal or ""), event, "rejected", event.code)
            case e.ProposalFinished():
                self._end_proposal((run_id, event.proposal or ""), event, event.status, event.status)
            case e.RunFinished():
                self._end_open(event.ts, lambda key: key[0] == run_id)
                self._runs.pop(run_id, None)
            case _ if event.proposal is not None and event.action is not None:
                self._action(event, (run_id, event.proposal, event.action))
            case _:
                pass  # spans do not show these events

    def close(self) -> None:
        """End the spans that are still open; their outcome is unknown."""
        self._end_open(None, lambda _key: True)

    def _end_open(self, at_us: int | None, chosen: Callable[[Key], bool]) -> None:
        for spans in (self._attempts, self._actions, self._proposals):
            for key in [key for key in spans if chosen(key)]:
                spans.pop(key).end(at_us, "unset", "")
        for key in [key for key in self._types if chosen(key)]:
            del self._types[key]

    def _run_attributes(self, run_id: str) -> dict[str, str | int | bool]:
        return self._runs.setdefault(run_id, {"interlock.run.id": run_id})

    def _begin_proposal(self, run_id: str, event: e.ProposalReceived | e.ProposalRejected) -> None:
        key = (run_id, event.proposal or "")
        attributes: dict[str, str | int | bool] = {
            **self._run_attributes(run_id),
            "gen_ai.operation.name": "invoke_agent",
            "interlock.proposal.id": key[1],
        }
        if isinstance(event, e.ProposalReceived):
            attributes |= {
                "gen_ai.agent.name": event.agent,
                "interlock.source": event.source,
                "interlock.action_count": event.action_count,
                "interlock.dry_run": event.dry_run,
            }
            self._types |= {(*key, action_id): kind for action_id, kind in _types_of(event.document.view)}
        self._proposals[key] = self._tracer.start(key, "proposal.execute", None, event.ts, attributes)

    def _end_proposal(self, key: Key, event: e.Event, status: str, reason: str) -> None:
        span = self._proposals.pop(key, None)
        self._end_open(event.ts, lambda other: other[:2] == key)
        if span is not None:
            span.set("interlock.status", status)
            good: SpanStatus = {"succeeded": "ok", "failed": "error", "rejected": "error"}.get(status, "unset")  # type: ignore[assignment]
            span.end(event.ts, good, "" if good == "ok" else reason)

    def _action(self, event: e.Event, key: Key) -> None:
        match event:
            case e.ActionIntent():
                self._begin_attempt(event, key)
            case e.ActionSucceeded():
                self._end_attempt(event, key, "ok")
                self._end_action(event, key, "ok", "succeeded")
            case e.ActionDeduplicated():
                self._end_action(event, key, "ok", "succeeded")
            case e.ActionFailed():
                self._end_attempt(event, key, "error", event.reason)
                if event.final:
                    self._end_action(event, key, "error", "failed", event.reason)
            case e.ActionRejected():
                self._end_action(event, key, "error", "rejected", event.reason)
            case e.ActionSkipped():
                self._end_action(event, key, "unset", "skipped", event.reason)
            case e.ActionCancelled() | e.ActionUnknown():
                status = "cancelled" if isinstance(event, e.ActionCancelled) else "unknown_outcome"
                self._end_attempt(event, key, "unset")
                self._end_action(event, key, "unset", status, event.reason)
            case (
                e.ActionHeld()
                | e.HoldResolved()
                | e.ToolAsked()
                | e.ToolAnswered()
                | e.ActionWaiting()
                | e.ActionRetrying()
                | e.PolicyDecided()
            ):
                self._open_action(event, key).add_event(str(event.__struct_config__.tag), event.ts)
            case _:
                pass  # undo, logs and state are only in the journal

    def _open_action(self, event: e.Event, key: Key) -> Span:
        span = self._actions.get(key)
        if span is None:
            parent = self._proposals.get(key[:2])
            attributes = {
                **self._run_attributes(key[0]),
                "interlock.proposal.id": key[1],
                "interlock.action.id": key[2],
            }
            name = f"action.{self._types.get(key, 'unknown')}"
            span = self._actions[key] = self._tracer.start(key, name, parent, event.ts, attributes)
        return span

    def _begin_attempt(self, event: e.ActionIntent, key: Key) -> None:
        action = self._open_action(event, key)
        if event.tool is None:
            return
        action.rename("action.tool_call")
        attributes: dict[str, str | int | bool] = {
            **self._run_attributes(key[0]),
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": event.tool,
            "gen_ai.tool.type": "function",
            "gen_ai.tool.call.id": key[2],
            "interlock.proposal.id": key[1],
            "interlock.attempt": event.attempt,
            "interlock.read_only": event.read_only,
        }
        number = (*key, str(event.attempt))
        self._attempts[key] = self._tracer.start(number, f"execute_tool {event.tool}", action, event.ts, attributes)

    def _end_attempt(self, event: e.Event, key: Key, status: SpanStatus, reason: str = "") -> None:
        span = self._attempts.pop(key, None)
        if span is not None:
            span.end(event.ts, status, reason)

    def _end_action(self, event: e.Event, key: Key, status: SpanStatus, name: str, reason: str = "") -> None:
        span = self._open_action(event, key)
        del self._actions[key]
        span.set("interlock.status", name)
        if isinstance(event, e.ActionDeduplicated):
            span.set("interlock.deduplicated_from", event.source)
        span.end(event.ts, status, reason)


def _types_of(view: Any) -> Iterable[tuple[str, str]]:
    """Yields id and type of each action in the view of a proposal that has both."""
    document = msgspec.json.decode(view) if isinstance(view, msgspec.Raw) else view
    actions = document.get("actions", ()) if isinstance(document, dict) else ()
    for action in actions:
        if isinstance(action, dict) and action.get("id") and action.get("type"):
            yield str(action["id"]), str(action["type"])


class Records:
    """A tracer that makes plain records; needs only the base install."""

    def __init__(self, sink: Callable[[SpanRecord], None]) -> None:
        """`sink` gets each span when it has ended."""
        self._sink = sink

    def start(
        self, key: Key, name: str, parent: Span | None, at_us: int, attributes: dict[str, str | int | bool]
    ) -> Span:
        """Begin a record."""
        assert parent is None or isinstance(parent, _Recorded)
        return _Recorded(self._sink, key, name, parent, at_us, attributes)


class _Recorded:
    """A record whose span is still open."""

    def __init__(
        self,
        sink: Callable[[SpanRecord], None],
        key: Key,
        name: str,
        parent: _Recorded | None,
        at_us: int,
        attributes: dict[str, str | int | bool],
    ) -> None:
        self._sink = sink
        self._trace_id = _id(key[:2], 32)
        self.span_id = _id(("span", *key), 16)
        self._parent_id = None if parent is None else parent.span_id
        self._name = name
        self._start_us = at_us
        self._attributes = attributes
        self._events: list[tuple[str, int]] = []

    def rename(self, name: str) -> None:
        self._name = name

    def set(self, name: str, value: str | int | bool) -> None:
        self._attributes[name] = value

    def add_event(self, name: str, at_us: int) -> None:
        self._events.append((name, at_us))

    def end(self, at_us: int | None, status: SpanStatus, reason: str) -> None:
        self._sink(
            SpanRecord(
                trace_id=self._trace_id,
                span_id=self.span_id,
                parent_id=self._parent_id,
                name=self._name,
                start_us=self._start_us,
                end_us=at_us,
                status=status,
                reason=reason,
                attributes=self._attributes,
                events=tuple(self._events),
            )
        )


def _id(key: Key, digits: int) -> str:
    """Returns an id made from a key. The hash includes the lengths of the parts, because a part may contain any character."""
    data = b"".join(b"%d:%b" % (len(part), part.encode("utf-8", "surrogatepass")) for part in key)
    return hashlib.sha256(b"interlock.span.v1\n" + data).hexdigest()[:digits]


def spans_of(run_id: str, events: Iterable[e.Event | e.Unknown]) -> list[SpanRecord]:
    """Returns the spans of a run from its events, in the order in which they ended."""
    found: list[SpanRecord] = []
    spans = Spans.to(found.append)
    for event in events:
        if isinstance(event, e.Event):
            spans(run_id, event)
    spans.close()
    return found

"""Renders journal events for people: number, time, action, and what happened. `--json` has all events with all fields."""

from __future__ import annotations

import datetime as dt
import shlex
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from interlock.model import events as e
from interlock.model.summary import main_parameter
from interlock.surfaces.cli.outcome_words import Calls, outcome
from interlock.surfaces.cli.output import Output, brief, clean
from interlock.surfaces.cli.results import last_lines

_COLORS: Final = {
    "action_succeeded": "green",
    "action_failed": "red",
    "action_rejected": "red",
    "proposal_rejected": "red",
    "action_unknown_outcome": "red",
    "action_held": "yellow",
    "undo_done": "yellow",
    "state_rolled_back": "yellow",
}
_ACTION_WIDTH: Final = 8
_KIND_WIDTH: Final = 17
_WORDS_CHARS: Final = 240
_INTERNAL: Final = frozenset(
    {
        *(
            "kind",
            "seq",
            "ts",
            "mono",
            "proposal",
            "action",
            "step",
            "digest",
            "version",
            "pid",
            "boot",
            "configuration",
        ),
        *("posture", "telemetry", "workspace", "component"),
    }
)
"""Fields that are only for programs."""


def as_builtins(event: e.Event | e.Unknown) -> dict[str, Any]:
    """An event in the form stored in the journal."""
    if isinstance(event, e.Unknown):
        return {"kind": event.kind, "seq": event.seq, **event.fields}
    value = msgspec.to_builtins(event)
    assert isinstance(value, dict)
    return value


class EventLines:
    """Renders the events of a run, in order, as lines. Measurements of the machine and repeated decisions have no line."""

    def __init__(self, out: Output) -> None:
        """Start before the first event."""
        self._out = out
        self._calls = Calls()
        self._decided: dict[tuple[str | None, str | None], tuple[Any, ...]] = {}

    def lines(self, event: e.Event | e.Unknown) -> Iterable[str]:
        """The line of an event, if it has one."""
        if isinstance(event, e.MachineSampled) or self._repeats(event):
            return []
        if isinstance(event, e.Unknown):
            moment, action, kind = event.fields.get("ts"), str(event.fields.get("action") or ""), event.kind
        else:
            self._calls.on_event("", event)
            moment, action, kind = event.ts, event.action or "", str(event.__struct_config__.tag)
        shown = self._out.paint(f"{clean(kind):{_KIND_WIDTH}}", _COLORS.get(kind, "bold"))
        words = brief(self._words(event), _WORDS_CHARS)
        return [f"{event.seq:>5} {_time(moment)} {clean(action):{_ACTION_WIDTH}} {shown} {words}".rstrip()]

    def _repeats(self, event: e.Event | e.Unknown) -> bool:
        if not isinstance(event, e.PolicyDecided):
            return False
        key, decided = (event.proposal, event.action), (event.decision, event.policies, event.errors)
        before = self._decided.get(key)
        self._decided[key] = decided
        return before == decided

    def _words(self, event: e.Event | e.Unknown) -> str:
        if isinstance(event, e.Unknown):
            return _fields(event.fields)
        if isinstance(event, e.ActionSucceeded):
            said = outcome(self._calls.of(event.proposal or "", event.action or ""), event.output.view)
            return _joined(said if said is not None else _value(event.output), _spent(event))
        words = _WORDS.get(type(event))
        return _of_defaults(event) if words is None else words(event)


def _time(moment: Any) -> str:
    if not isinstance(moment, int):
        return "--:--:--.---"
    local = dt.datetime.fromtimestamp(moment / 1e6, tz=dt.UTC).astimezone()
    return f"{local:%H:%M:%S}.{local.microsecond // 1000:03d}"


def _value(kept: e.Kept | None) -> str:
    """The redacted view of a stored value; its size if it has no view."""
    if kept is None:
        return ""
    return brief(kept.view, 100) if kept.view is not None or kept.bytes <= len("null") else f"({kept.bytes} bytes)"


def _joined(*parts: str | None) -> str:
    return "; ".join(part for part in parts if part)


def _answer(event: e.HoldResolved | e.ToolAnswered) -> str:
    edited = getattr(event, "parameters", None)
    by = f"{event.decision} by {event.approver}" if event.approver else event.decision
    return _joined(by, f"edited: {_value(edited)}" if edited is not None else None)


def _ended(event: e.ProcessEnded | e.CommandFinished) -> str:
    return f"signal {event.signal}" if event.signal else f"exit {event.exit_code}"


def _spent(event: e.ActionSucceeded | e.ActionFailed) -> str:
    parts = (
        f"{event.duration_ms:.0f} ms" if event.duration_ms >= 1 else "",
        f"cost {event.cost:g}" if event.cost else "",
        f"{event.tokens} tokens" if event.tokens else "",
        f"cannot be undone: {', '.join(event.not_undoable)}" if event.not_undoable else "",
        f"settled by {event.resolved_by}" if event.resolved_by else "",
    )
    return _joined(*parts)


def _failed(event: e.ActionFailed) -> str:
    view = None if event.output is None else event.output.view
    wrote = last_lines(view)[-1:] or ([] if isinstance(view, dict) and "exit_code" in view else [_value(event.output)])
    again = None if event.final else "it is retried"
    return _joined(f"{event.reason}: {event.error}", *wrote, _spent(event), again)


def _intent(event: e.ActionIntent) -> str:
    view = None if event.parameters is None else event.parameters.view
    said = main_parameter(view) if isinstance(view, dict) else ""
    again = f" (attempt {event.attempt})" if event.attempt > 1 else ""
    return f"{event.tool or ''} {said}".strip() + again


def _wait(event: e.ActionWaiting) -> str:
    most = "" if event.wait_max_ms is None else f", at most {event.wait_max_ms / 1000:.0f} s"
    return f"for {event.what or event.cause}{most}"


def _connection(event: e.ActionConnection) -> str:
    place = event.host if event.port is None else f"{event.host}:{event.port}"
    sizes = f"{event.sent_bytes} bytes sent, {event.received_bytes} received" if event.outcome == "connected" else None
    times = f"{event.count} times" if event.count > 1 else None
    return _joined(f"{event.outcome} {place}", event.reason, sizes, times)


def _undone(event: e.UndoDone) -> str:
    return _joined(f"{event.how}: {event.status}", event.problem, event.of)


def _opened(event: e.LayerOpened) -> str:
    if event.absent:
        return f"none; the proposal works on the files themselves: {event.how}"
    return event.how + (" (again)" if event.again else "")


def _named(paths: dict[str, str]) -> str:
    return ", ".join(f"{path} ({why})" for path, why in paths.items())


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


_WORDS: Final[dict[type[e.Event], Callable[[Any], str]]] = {
    e.RunStarted: lambda v: _joined(
        f"agent {v.agent}", f"session {v.session}" if v.session else None, f"Interlock {v.interlock}"
    ),
    e.RunResumed: lambda _: "",
    e.ConfigurationChanged: lambda v: v.problem or "in force from now on",
    e.StopRequested: lambda v: _joined(f"by {v.by} ({v.surface})", v.reason),
    e.RunFinished: lambda v: v.status,
    e.ProposalReceived: lambda v: _joined(
        _count(v.action_count, "action") + ("" if v.source == "unknown" else f" from {v.source}"),
        "dry run" if v.dry_run else None,
        f"grant token {v.grant_token}" if v.grant_token else None,
    ),
    e.ProposalRejected: lambda v: _joined(f"{v.code}: {v.message}", v.path),
    e.ProposalFinished: lambda v: _joined(v.status, *(f"not undone: {one.action_id}: {one.reason}" for one in v.not_undone)),
    e.PolicyDecided: lambda v: _joined(f"{v.decision} by {', '.join(v.policies)}" if v.policies else v.decision, *v.errors),
    e.ActionRejected: lambda v: f"{v.reason}: {v.detail}" if v.detail else v.reason,
    e.ActionSkipped: lambda v: _joined(f"{v.reason}: {v.detail}" if v.detail else v.reason, _value(v.would)),
    e.ActionHeld: lambda v: v.approval,
    e.HoldResolved: _answer,
    e.ToolAsked: lambda v: _joined(v.summary, v.approval),
    e.ToolAnswered: _answer,
    e.ActionDeduplicated: lambda v: f"the stored result of {v.source}",
    e.ActionWaiting: _wait,
    e.ActionIntent: _intent,
    e.ActionRetrying: lambda v: f"attempt {v.attempt} in {v.delay_ms} ms",
    e.ActionFailed: _failed,
    e.ActionUnknown: lambda v: _joined(v.reason, v.detail),
    e.ActionCancelled: lambda v: _joined(v.reason, v.detail),
    e.OutcomeSettled: lambda v: f"{v.decision}, by {v.by}",
    e.ActionLog: lambda v: v.message,
    e.ActionConnection: _connection,
    e.ActionRecorded: lambda v: _joined(
        _count(v.calls, "call") + (f" of {v.handle}" if v.handle else ""), "the recorder was killed" if v.lost else None
    ),
    e.ProcessStarted: lambda v: f"{v.handle}, until the {v.until} ends",
    e.ProcessEnded: lambda v: _joined(f"{v.handle}: {v.why}", _ended(v)),
    e.StateChanged: lambda v: f"{v.key} removed" if v.deleted else f"{v.key} = {_value(v.value)}",
    e.EffectDivergence: lambda v: f"{v.key} does not match the agent's claim",
    e.UndoIntent: lambda v: _joined(v.how, v.detail, v.of),
    e.UndoDone: _undone,
    e.StateRolledBack: lambda _: "",
    e.WorkspaceCommitted: lambda v: f"state: {', '.join(v.keys)}" if v.keys else "",
    e.LayerOpened: _opened,
    e.LayerCommitIntent: lambda v: _count(v.changes, "change"),
    e.LayerCommitted: lambda v: _joined(_count(v.changes, "change"), _named(v.blocked)),
    e.LayerKept: lambda v: _joined(v.why, _count(v.changes, "change"), v.detail, _named(v.blocked), _named(v.not_restored)),
    e.LayerDiscarded: lambda v: v.why,
    e.CommandStarted: lambda v: _joined(
        shlex.join(v.command), f"variables {', '.join(v.env_keys)}" if v.env_keys else None,
        f"profile {v.profile}, network {v.network}, recorder {v.recorder}",
    ),
    e.CommandFinished: lambda v: _joined(_ended(v), "timed out" if v.timed_out else None),
}  # fmt: skip
"""The text for events of these kinds. For other kinds, the fields that differ from their defaults are shown."""


def _of_defaults(event: e.Event) -> str:
    defaults = {field.name: field.default for field in msgspec.structs.fields(event)}
    given = msgspec.structs.asdict(event)
    return _fields({name: value for name, value in given.items() if value != defaults[name]})


def _fields(fields: dict[str, Any]) -> str:
    return "  ".join(
        f"{name}={_value(value) if isinstance(value, e.Kept) else brief(value, 80)}"
        for name, value in fields.items()
        if name not in _INTERNAL
    )

"""Renders journal events for people: time, number, step, action, what happened."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec

from interlock.model.events import Event, Unknown
from interlock.surfaces.cli.output import Output, brief, clean

_COMMON = frozenset(("kind", "seq", "ts", "mono", "proposal", "action", "step"))
_COLORS = {
    "action_succeeded": "green",
    "action_failed": "red",
    "action_rejected": "red",
    "proposal_rejected": "red",
    "action_unknown_outcome": "red",
    "action_held": "yellow",
    "undo_done": "yellow",
    "state_rolled_back": "yellow",
}


def as_builtins(event: Event | Unknown) -> dict[str, Any]:
    """An event as the journal stores it."""
    if isinstance(event, Unknown):
        return {"kind": event.kind, "seq": event.seq, **event.fields}
    value = msgspec.to_builtins(event)
    assert isinstance(value, dict)
    return value


def event_line(out: Output, event: Event | Unknown) -> str:
    """The event on one line."""
    fields = as_builtins(event)
    kind = str(fields["kind"])
    moment = fields.get("ts")
    time = "--:--:--.---"
    if isinstance(moment, int):
        local = dt.datetime.fromtimestamp(moment / 1e6, tz=dt.UTC).astimezone()
        time = f"{local:%H:%M:%S}.{local.microsecond // 1000:03d}"
    step = fields.get("step")
    rest = "  ".join(f"{name}={brief(_view(value), 80)}" for name, value in fields.items() if name not in _COMMON)
    line = (
        f"{fields['seq']:>5} {time} {step if step is not None else '':>2} {clean(str(fields.get('action') or '')):8} "
    )
    return f"{line}{out.paint(clean(kind), _COLORS.get(kind, 'bold'))}  {rest}".rstrip()


def _view(value: Any) -> Any:
    """The redacted view of a stored value, or its size if it has none."""
    if isinstance(value, dict) and {"digest", "bytes"} <= value.keys():
        return value["view"] if "view" in value else f"({value['bytes']} bytes)"
    return value

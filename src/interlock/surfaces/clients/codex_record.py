"""Codex's record of a session, which has what its hooks are not told: with which shell, and how, a command is to run.

Codex writes a call to the record before it runs its hooks, one JSON object a line (version 0.171).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

from interlock.model import typed

_TAILS: Final = (256 * 1024, 16 * 1024 * 1024)
"""How many bytes at the end of the record are searched, one after the other. Other calls may have been written since."""


class _Payload(msgspec.Struct):
    type: str = ""
    call_id: str = ""
    arguments: str = ""


class _Line(msgspec.Struct):
    payload: _Payload


def recorded_inputs(record: str, call_id: str) -> list[dict[str, Any]]:
    """The inputs of the calls with this id. Raises: ValueError if there is no record, or the call is not in it."""
    if not record:
        raise ValueError(
            "Codex keeps no record of this session, so its command cannot be seen as a whole: start it with one"
        )
    try:
        with Path(record).open("rb") as file:
            size = file.seek(0, 2)
            for tail in _TAILS:
                file.seek(max(0, size - tail))
                if found := _inputs(file.read(tail), call_id):
                    return found
    except OSError as error:
        raise ValueError(f"Codex's record of this session cannot be read: {error.strerror}") from None
    raise ValueError("Codex's record of this session does not have the call, so it cannot be seen as a whole")


def _inputs(data: bytes, call_id: str) -> list[dict[str, Any]]:
    mark = msgspec.json.encode(call_id)
    found = []
    for line in data.split(b"\n"):
        if mark not in line or b'"function_call"' not in line:
            continue
        try:
            payload = typed.decode(line, _Line).payload
        except msgspec.MsgspecError:
            continue  # a line that was cut off at the start, or has another form
        if payload.type == "function_call" and payload.call_id == call_id:
            found.append(typed.decode(payload.arguments.encode(), dict[str, Any]))
    return found

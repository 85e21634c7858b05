"""The result of a call: its row, or one combined row if the call expands to several actions (`Binding.expand`)."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from interlock.model.errors import HeldError
from interlock.model.result import ActionResult, CallResult, ProposalResult, RunStatus, Status

_STATUS: Final[dict[RunStatus, Status]] = {
    "succeeded": "succeeded", "failed": "failed", "rejected": "failed", "cancelled": "cancelled", "interrupted": "cancelled",
}  # fmt: skip
_DONE: Final = ("succeeded", "rolled_back", "not_undone")
"""Statuses of the call's own row after which the actions of its expansion ran."""


def call_result(tool: str, found: ProposalResult) -> CallResult:
    """The result of the call. Raises: HeldError if it, or one of the actions of its expansion, is held."""
    row = found.results[0]
    for one in found.results:
        if one.status == "held":
            approval = one.output["approval"] if isinstance(one.output, dict) else ""
            text = one.error or "the call is held"
            held = HeldError(text, approval=approval, run_id=found.run_id, tool=tool, code=one.reason)
            held.done = tuple(each.action_id for each in found.results[1:] if each.status == "succeeded")
            raise held
    fields = msgspec.structs.asdict(row)
    if len(found.results) > 1 and (row.status in _DONE):
        fields |= _together(found)
    return CallResult(**fields, tool=tool, run_id=found.run_id)


def _together(found: ProposalResult) -> dict[str, Any]:
    own, rest = found.results[0], found.results[1:]
    unknown = any(row.status == "unknown_outcome" for row in rest)
    status: Status = "unknown_outcome" if unknown else _STATUS.get(found.status, "failed")
    given = own.output if isinstance(own.output, dict) else {}
    fields = {
        "status": status,
        "output": {**given, "results": [_shown(row) for row in rest]},
        "state_changes": {key: value for row in found.results for key, value in row.state_changes.items()},
        "duration_ms": sum(row.duration_ms for row in found.results),
        "waited_ms": sum(row.waited_ms for row in found.results),
        "waited_for": tuple(each for row in found.results for each in row.waited_for),
        "hosts": tuple(each for row in found.results for each in row.hosts or ()) or None,
    }
    if status == "succeeded":
        return fields
    cause = next((row for row in rest if row.status in ("failed", "rejected", "cancelled", "unknown_outcome")), own)
    text = f"`{cause.action_id}`: {cause.status}, {cause.reason}" + (f": {cause.error}" if cause.error else "")
    if found.not_undone:
        text += f"; not undone: {', '.join(f'`{one.action_id}` ({one.reason})' for one in found.not_undone)}"
    return fields | {"reason": "skill_failed" if status == "failed" else cause.reason, "error": text}


def _shown(row: ActionResult) -> dict[str, Any]:
    """The fields of a row that matter to the caller."""
    found: dict[str, Any] = {"id": row.action_id, "status": row.status}
    more = {"reason": row.reason, "output": row.output, "error": row.error}
    return found | {name: value for name, value in more.items() if value is not None}

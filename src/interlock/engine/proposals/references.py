"""Replaces the references in parameters (`$ID.output`) with the outputs of earlier actions, within the limits.

A reference is a few characters, but its value may be megabytes, and a parameter may hold thousands of them.
"""

from __future__ import annotations

from typing import Any

import msgspec

from interlock.engine.proposals.proposal_run import ProposalRun
from interlock.model.errors import ProposalError, ToolError
from interlock.model.values import check_value


def fill_references(run: ProposalRun, parameters: dict[str, Any]) -> dict[str, Any]:
    """A copy of the parameters in which every reference is replaced by its value.

    Raises: ToolError `reference_failed` if a reference has no value, if the values together are larger than `output_bytes`, or
    if they contain a value that no proposal may contain.
    """
    limits = run.services.bounds.limits
    sizes: dict[tuple[str, tuple[str | int, ...]], int] = {}
    left = limits.output_bytes

    def lookup(action_id: str, path: tuple[str | int, ...]) -> Any:
        nonlocal left
        value = output_of(run, action_id, path)
        size = sizes.get((action_id, path))
        if size is None:
            size = sizes[action_id, path] = len(msgspec.json.encode(value))
        left -= size
        if left < 0:
            raise _refused(f"the references stand for more than {limits.output_bytes} bytes (limit `output_bytes`)")
        return value

    found: dict[str, Any] = run.graph.references.resolve(parameters, lookup)
    try:
        check_value(found, "$.parameters", limits, reserved=True)
    except ProposalError as error:
        raise _refused(error.message, error.path) from error
    return found


def output_of(run: ProposalRun, action_id: str, path: tuple[str | int, ...]) -> Any:
    """The value of one reference. Raises: ToolError `reference_failed`."""
    row = run.rows[run.graph.index[action_id]]
    if row is None or row.status != "succeeded":
        raise ToolError(f"`{action_id}` has no output", code="reference_failed", path="$.parameters")
    value = row.output
    for depth, step in enumerate(path):
        try:
            value = _member(value, step)
        except LookupError:
            place = "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in path[: depth + 1])
            message = f"the output of `{action_id}` has no `{place}`"
            raise ToolError(message, code="reference_failed", path="$.parameters") from None
    return value


def _member(value: Any, step: str | int) -> Any:
    """One step of a reference. Raises: LookupError."""
    if isinstance(value, dict) and isinstance(step, str):
        return value[step]
    if isinstance(value, list) and isinstance(step, int):
        return value[step]
    raise LookupError(step)


def _refused(message: str, path: str | None = "$.parameters") -> ToolError:
    return ToolError(message, code="reference_failed", path=path, retryable=False)

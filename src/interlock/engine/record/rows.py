"""Makes the rows of a result, for a live run from its values and for a replay from its events. No other code makes rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from interlock.model import events as e
from interlock.model.result import ActionResult, HostUse
from interlock.telemetry import expand


def succeeded(
    action_id: str,
    output: Any,
    at_us: int,
    seq: int | None,
    attempts: int = 0,
    duration_ms: float = 0.0,
    waited_ms: float = 0.0,
    changes: dict[str, Any] | None = None,
    posture: dict[str, str] | None = None,
    telemetry: dict[str, Any] | None = None,
    source: str | None = None,
    hosts: tuple[HostUse, ...] | None = None,
) -> ActionResult:
    """The row of a success. `changes` are the state keys that it wrote; `source` is the earlier call with the stored result."""
    return ActionResult(  # by position, here and in calls: this row is made for nearly every action
        action_id, "succeeded", None, output, None, {} if changes is None else changes, attempts, duration_ms, waited_ms,
        at_us, seq, source, posture, telemetry, hosts,
    )  # fmt: skip


def failed(
    action_id: str,
    reason: str,
    error: str | None,
    *,
    at_us: int,
    seq: int | None,
    attempts: int = 0,
    output: Any = None,
    duration_ms: float = 0.0,
    waited_ms: float = 0.0,
    posture: dict[str, str] | None = None,
    telemetry: dict[str, Any] | None = None,
    unknown: bool = False,
    hosts: tuple[HostUse, ...] | None = None,
) -> ActionResult:
    """The row of a failure; `unknown` if the tool may have had its effect."""
    return ActionResult(
        action_id=action_id, status="unknown_outcome" if unknown else "failed", reason=reason, output=output, error=error,
        attempts=attempts, duration_ms=duration_ms, waited_ms=waited_ms, timestamp=at_us, seq=seq, posture=posture,
        telemetry=telemetry, hosts=hosts,
    )  # fmt: skip


def stopped(
    action_id: str,
    reason: str,
    *,
    at_us: int,
    seq: int | None,
    attempts: int,
    error: str | None = None,
    unknown: bool = False,
    output: Any = None,
    duration_ms: float = 0.0,
    waited_ms: float = 0.0,
    posture: dict[str, str] | None = None,
    hosts: tuple[HostUse, ...] | None = None,
) -> ActionResult:
    """The row of an action that the engine or the caller stopped; `unknown` if it may still have an effect."""
    return ActionResult(
        action_id=action_id, status="unknown_outcome" if unknown else "cancelled", reason=reason, output=output,
        error=error, attempts=attempts, duration_ms=duration_ms, waited_ms=waited_ms, timestamp=at_us, seq=seq, posture=posture,
        hosts=hosts,
    )  # fmt: skip


def rejected(
    action_id: str,
    reason: str,
    error: str | None,
    *,
    at_us: int,
    seq: int | None,
    attempts: int = 0,
    waited_ms: float = 0.0,
    telemetry: dict[str, Any] | None = None,
) -> ActionResult:
    """The row of an action that the gate refused."""
    return ActionResult(
        action_id=action_id, status="rejected", reason=reason, error=error, attempts=attempts, waited_ms=waited_ms,
        timestamp=at_us, seq=seq, telemetry=telemetry,
    )  # fmt: skip


def skipped(
    action_id: str,
    reason: str,
    error: str | None = None,
    *,
    at_us: int = 0,
    seq: int | None = None,
    waited_ms: float = 0.0,
    output: Any = None,
) -> ActionResult:
    """The row of an action that did not run, without a failure of its own. After a dry run, `output` describes its changes."""
    return ActionResult(
        action_id=action_id, status="skipped", reason=reason, error=error, waited_ms=waited_ms, timestamp=at_us, seq=seq,
        output=output,
    )  # fmt: skip


def held(
    action_id: str,
    reason: str,
    error: str,
    *,
    at_us: int = 0,
    approval: str | None = None,
    attempts: int = 0,
    waited_ms: float = 0.0,
) -> ActionResult:
    """The row of an action that waits for a person: for the answer to `approval`, or to settle an unknown outcome."""
    return ActionResult(
        action_id=action_id, status="held", reason=reason, error=error, attempts=attempts, waited_ms=waited_ms,
        output=None if approval is None else {"approval": approval}, timestamp=at_us,
    )  # fmt: skip


def row_of(event: e.Event, value: Callable[[e.Kept], Any], samples: Mapping[int, dict[str, Any]]) -> ActionResult:
    """The row for the event of an outcome, equal to the one that the live run made.

    `value` returns a kept value; `samples` are readings of the machine by the number of their event.
    """
    action_id, at_us, seq = event.action or "", event.ts, event.seq
    match event:
        case e.ActionSucceeded():
            return succeeded(
                action_id, value(event.output), at_us, seq, event.attempt, event.duration_ms, event.waited_ms,
                posture=event.posture or None, telemetry=expand(event.telemetry, samples), hosts=event.hosts or None,
            )  # fmt: skip
        case e.ActionDeduplicated():
            return succeeded(
                action_id, value(event.output), at_us, seq, changes=event.state_changes, source=event.source
            )
        case e.ActionFailed():
            output = None if event.output is None else value(event.output)
            return failed(
                action_id, event.reason, event.error, at_us=at_us, seq=seq, attempts=event.attempt, output=output,
                duration_ms=event.duration_ms, waited_ms=event.waited_ms, posture=event.posture or None,
                telemetry=expand(event.telemetry, samples), hosts=event.hosts or None,
            )  # fmt: skip
        case e.ActionRejected():
            return rejected(
                action_id, event.reason, event.detail or None, at_us=at_us, seq=seq,
                telemetry=expand(event.telemetry, samples),
            )  # fmt: skip
        case e.ActionSkipped():
            would = None if event.would is None else value(event.would)
            return skipped(action_id, event.reason, event.detail or None, at_us=at_us, seq=seq, output=would)
        case e.ActionUnknown() if event.reason == "timeout":
            return failed(
                action_id, "timeout", event.detail, at_us=at_us, seq=seq, attempts=event.attempt, unknown=True
            )
        case e.ActionUnknown() | e.ActionCancelled():
            unknown = isinstance(event, e.ActionUnknown)
            hosts = event.hosts or None if isinstance(event, e.ActionCancelled) else None
            return stopped(
                action_id, event.reason, at_us=at_us, seq=seq, attempts=event.attempt, error=event.detail or None,
                unknown=unknown, hosts=hosts,
            )  # fmt: skip
        case _:
            raise TypeError(f"`{type(event).__name__}` is not the outcome of an action")

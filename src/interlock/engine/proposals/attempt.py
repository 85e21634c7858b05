"""The result of one attempt at an action: an output, or a failure."""

from __future__ import annotations

from typing import Any, final

import msgspec

from interlock.engine.proposals.tool_context import ActionContext
from interlock.model.result import Status


@final
class Output(msgspec.Struct, eq=False):
    """A tool's return value, checked and copied: a JSON value."""

    value: Any
    data: bytes | None = None
    """Its canonical JSON, if that was needed already."""
    duration_ms: float = 0.0


class Failure:
    """The reason why an attempt did not succeed: a code of `REASONS` (or a tool's own), and a sentence."""

    __slots__ = (
        "attempt", "duration_ms", "message", "output", "raises", "reason", "retryable", "started", "status", "stopped",
    )  # fmt: skip

    def __init__(
        self,
        attempt: ActionContext,
        reason: str,
        message: str,
        *,
        retryable: bool = True,
        output: Any = None,
        status: Status = "failed",
        stopped: bool = False,
        started: bool = True,
        raises: BaseException | None = None,
    ) -> None:
        """`status` is `unknown_outcome` if the call may still have an effect.

        `stopped` if the engine or the caller stopped it, `started` if the tool had been called by then; `raises` passes
        through once the outcome is written.
        """
        self.attempt = attempt
        self.reason = reason
        self.message = message
        self.retryable = retryable
        self.output = output
        self.status = status
        self.stopped = stopped
        self.started = started
        self.raises = raises
        self.duration_ms = 0.0

"""Decides when to retry a failed attempt: exponential back-off with full jitter, up to the action's number of retries."""

from __future__ import annotations

from typing import Final

from interlock.engine.proposals.action_run import ActionRun
from interlock.engine.proposals.attempt import Failure

BASE_MS: Final = 100
DELAY_MAX_MS: Final = 30_000


def next_delay(action: ActionRun, failure: Failure, retries: int) -> int | None:
    """Milliseconds until the next attempt; None if there is none. This process has already made `retries` retries."""
    spec = action.spec
    retries_max = spec.max_retries if spec.failure_behavior == "retry" else 0
    if not failure.retryable or retries >= retries_max or action.run.stop_reason is not None:
        return None
    bound: int = min(DELAY_MAX_MS, BASE_MS * 2 ** min(failure.attempt.attempt - 1, 20))
    return round(action.run.services.jitter() * bound)

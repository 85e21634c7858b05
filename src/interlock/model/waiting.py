"""The notice to listeners that something waits."""

from __future__ import annotations

from typing import Final

import msgspec

UNLIMITED_MS: Final = 1e12
"""A wait that may be longer than this counts as unlimited."""


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """An action or proposal has started to wait."""

    run_id: str
    action_id: str | None
    """None if the proposal as a whole waits."""
    cause: str
    """`approval`, `rate_limit`, `resource_guard`, `retry` or `workspace`."""
    what: str
    """What it waits for, as a phrase for people: `an answer to appr_1`."""
    wait_max_ms: float
    """The maximum wait, after which it continues or is refused. `UNLIMITED_MS` or more: unlimited."""
    holder: str | None = None
    """For `workspace`: run and proposal of the present writer."""
    doing: str | None = None
    """What that writer does, for people: an action and its tool."""
    since_us: int | None = None
    """When that action began, in microseconds since the epoch."""

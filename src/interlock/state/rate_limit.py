"""A token bucket over a given clock (step 7).

Callers reserve: `acquire` takes the next free slot at once and returns the time to wait for it. So slots are given in
the order of requests, without polling or overtaking. This is the generic cell rate algorithm (ITU-T I.371), a token
bucket that stores one number: the time at which the bucket would be full again. All arithmetic is on integers.
"""

from __future__ import annotations

import threading

from interlock.model.tool import RateLimit


class TokenBucket:
    """The bucket of one tool: starts with `calls` tokens, and is refilled evenly with `calls` per `per_ms` milliseconds."""

    def __init__(self, limit: RateLimit) -> None:
        """Start with a full bucket. Raises: ValueError unless both numbers of `limit` are at least 1."""
        if limit.calls < 1 or limit.per_ms < 1:
            raise ValueError(f"a rate limit needs calls and per_ms of 1 or more, not {limit.calls} and {limit.per_ms}")
        self._calls = limit.calls
        # Times are kept in units of 1/calls of a nanosecond, so that one token is a whole number of units.
        self._token = limit.per_ms * 1_000_000
        self._full_at: int | None = None
        self._lock = threading.Lock()  # proposals on several loops share a tool's bucket

    def acquire(self, now_ns: int, wait_max_ns: int | None = None) -> int | None:
        """Take the next token. Returns the nanoseconds to wait before using it (0: now).

        Returns None, and takes nothing, if the wait would be longer than `wait_max_ns`. `now_ns` is monotonic time; a
        clock that stops or goes back never adds tokens.
        """
        with self._lock:
            return self._acquire(now_ns, wait_max_ns)

    def _acquire(self, now_ns: int, wait_max_ns: int | None) -> int | None:
        now = now_ns * self._calls
        full_at = now if self._full_at is None else max(self._full_at, now)
        # With `calls` tokens in a full bucket, the first `calls` reservations need no wait.
        early = full_at + self._token - self._calls * self._token - now
        wait_ns = max(0, -(-early // self._calls))
        if wait_max_ns is not None and wait_ns > wait_max_ns:
            return None
        self._full_at = full_at + self._token
        return wait_ns

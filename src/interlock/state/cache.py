"""Results of calls to tools with `cache_ttl_ms`, in memory, for this process (step 7).

Keyed like the idempotency store (`interlock.state.idempotency.call_key`), so that no agent sees what another one was allowed
to fetch. Bounded in entries and size; the least recently used goes first. Values are copied in and out.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any, NamedTuple

import msgspec

from interlock.model.clock import Clock
from interlock.state.store import encode


class _Cached(NamedTuple):
    text: str
    expires_ns: int


class Hit(NamedTuple):
    """A cached output (which may be None)."""

    output: Any


class ResultCache:
    """A cache with a time to live for each entry. Threads may share it: the proposals of a runtime can run on several loops."""

    def __init__(self, clock: Clock, *, entries_max: int = 4_096, chars_max: int = 64 * 1024 * 1024) -> None:
        """An empty cache."""
        self._clock = clock
        self._entries_max = entries_max
        self._chars_max = chars_max
        self._chars = 0
        self._entries: OrderedDict[str, _Cached] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> Hit | None:
        """The cached output, unless it has expired."""
        with self._lock:
            found = self._entries.get(key)
            if found is None:
                return None
            if found.expires_ns <= self._clock.mono_ns():
                self._drop(key)
                return None
            self._entries.move_to_end(key)
        return Hit(msgspec.json.decode(found.text))

    def put(self, key: str, output: Any, ttl_ms: int) -> None:
        """Store an output for `ttl_ms`. One larger than the whole cache is not stored. Raises: CanonicalError."""
        text = encode(output)
        with self._lock:
            self._drop(key)
            if len(text) > self._chars_max:
                return
            self._entries[key] = _Cached(text, self._clock.mono_ns() + ttl_ms * 1_000_000)
            self._chars += len(text)
            while len(self._entries) > self._entries_max or self._chars > self._chars_max:
                self._chars -= len(self._entries.popitem(last=False)[1].text)

    def clear(self) -> None:
        """Remove everything."""
        with self._lock:
            self._entries.clear()
            self._chars = 0

    def delete(self, key: str) -> None:
        """Remove an output."""
        with self._lock:
            self._drop(key)

    def _drop(self, key: str) -> None:
        found = self._entries.pop(key, None)
        if found is not None:
            self._chars -= len(found.text)

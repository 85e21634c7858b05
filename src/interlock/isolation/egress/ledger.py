"""Records one action's connections. Each has a record; repetitions beyond a limit are summed up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from interlock.isolation.egress.wire import Outcome, Record, Via
from interlock.model.hosts import Endpoint

SINGLE_MAX: Final = 1000
"""Number of connections that get individual records."""
SUMS_MAX: Final = 512
"""Maximum number of distinct sums, because a program can ask for any number of names."""

Emit = Callable[[Record], None]


class Ledger:
    """The records of one action. `emit` is called immediately for new records, and by `close` for sums."""

    def __init__(self, emit: Emit) -> None:
        """Starts empty."""
        self._emit = emit
        self._singles = 0
        self._sums: dict[tuple[Any, ...], Record] = {}
        self.dropped = 0
        """Number of attempts that are not in any record."""

    def refused(
        self, there: Endpoint, via: Via, reason: str, *, outcome: Outcome = "refused", sni: str | None = None
    ) -> None:
        """Record a refused or failed connection or lookup. The first of each kind is reported immediately."""
        record = _record(there, via, outcome, reason=reason, sni=sni)
        if self._add(record, count=0):
            self._emit(record)

    def connected(
        self, there: Endpoint, via: Via, address: str, sni: str | None, sizes: tuple[int, int], ms: float
    ) -> None:
        """Record a connection that has ended. `sizes` are the bytes sent and received."""
        record = _record(there, via, "connected", address=address, sni=sni)
        record["sent"], record["received"] = sizes
        record["duration_ms"] = round(ms, 3)
        if self._singles < SINGLE_MAX:
            self._singles += 1
            self._emit(record)
        else:
            self._add(record, count=1)

    def close(self) -> None:
        """Report the sums."""
        for record in self._sums.values():
            if record["count"]:
                self._emit(record)
        self._sums.clear()

    def _add(self, record: Record, *, count: int) -> bool:
        """Add to the sum of this kind. Returns True for the first of its kind. A new sum starts at `count`."""
        key = tuple(record[name] for name in ("host", "port", "via", "outcome", "reason", "address", "sni"))
        known = self._sums.get(key)
        if known is not None:
            known["count"] += 1
            for name in ("sent", "received", "duration_ms"):
                known[name] += record[name]
            return False
        if len(self._sums) >= SUMS_MAX:
            self.dropped += 1
            return False
        self._sums[key] = {**record, "count": count}
        return True


def _record(
    there: Endpoint,
    via: Via,
    outcome: Outcome,
    *,
    reason: str | None = None,
    address: str | None = None,
    sni: str | None = None,
) -> Record:
    return {
        "host": there.host,
        "port": there.port,
        "via": via,
        "outcome": outcome,
        "reason": reason,
        "address": address,
        "sni": sni,
        "sent": 0,
        "received": 0,
        "duration_ms": 0.0,
        "count": 1,
    }

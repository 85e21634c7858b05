"""The time that approvals use: one clock for all processes on a database, which never goes back.

A wall clock can be set back, by an administrator or by NTP, and would then extend every time limit. So the database stores,
with each write, the time and the machine's monotonic clock. From then on the time is at least the stored time plus the
monotonic time since (the same for all processes of a boot); after a reboot, at least the stored time. A wall clock that jumps
ahead is believed: holds expire early, which denies.
"""

from __future__ import annotations

from typing import Final

from interlock.disk import Database
from interlock.model.clock import Clock

_SCHEMA: Final = (
    """create table approvals_time (
        one integer primary key check (one = 1), now_us bigint not null, mono_ns bigint not null, boot text not null
    )""",
)


class SharedTime:
    """`Clock.now_us`, but monotonic across processes and reboots."""

    def __init__(self, database: Database, clock: Clock, boot: str) -> None:
        """`boot` identifies the machine's boot (the kernel's boot id): monotonic times of two boots do not compare."""
        self._database = database
        self._clock = clock
        self._boot = boot
        database.migrate("approvals_time", _SCHEMA)

    def now_us(self) -> int:
        """Returns the time, in microseconds since the epoch."""
        wall = self._clock.now_us()
        rows = self._database.execute("select now_us, mono_ns, boot from approvals_time where one = 1")
        if not rows:
            return wall
        then, mono, boot = rows[0]
        elapsed = max(0, self._clock.mono_ns() - mono) // 1000 if boot == self._boot else 0
        return int(max(wall, then + elapsed))

    def tick(self) -> int:
        """Store and return the time. Call it first in every transaction that writes."""
        now = self.now_us()
        self._database.execute(
            "insert into approvals_time values (1, ?, ?, ?) on conflict (one) do update"
            " set now_us = excluded.now_us, mono_ns = excluded.mono_ns, boot = excluded.boot",
            (now, self._clock.mono_ns(), self._boot),
        )
        return now

"""The write lease: who may write in a workspace now, and a fair queue of waiters.

A writer claims paths or the whole workspace. It has the lease as soon as no earlier overlapping claim is left. So
writers of different paths work at the same time, and all others one after the other, first come, first served.

The queue is a table of the workspace's database. A ticket is both a place in the queue and the lease: its holder has
the lease if there is no earlier overlapping ticket. A ticket ends with its process. If the process is on this boot and
in this pid namespace, the ticket counts as long as the process lives; otherwise (a container that shares the state
directory) until the ticket expires, unless it is renewed.

Waiters do not poll: a writer that releases the lease wakes those whose turn it is, and so does the death of a holder
(see `bells`). A slow timer covers file systems without FIFOs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from interlock.disk import Database
from interlock.model.clock import Clock
from interlock.model.errors import StoreError
from interlock.workspace.bells import Bell, bell, remove_left, ring
from interlock.workspace.claims import Claim

_TABLES: Final = (
    """
create table workspace_leases (
    workspace text primary key,
    holder text not null,
    pid integer not null,
    started text not null,
    place text not null,
    expires_us bigint not null
)
""",
    """
drop table workspace_leases;
create table workspace_turns (
    ticket bigint not null,
    workspace text not null,
    holder text not null,
    doing text not null,
    since_us bigint not null,
    claim text not null,
    wake text not null,
    pid integer not null,
    started text not null,
    place text not null,
    expires_us bigint not null,
    primary key (workspace, ticket)
)
""",
)
EXPIRES_US: Final = 60_000_000
"""How long a ticket counts without renewal if its process cannot be examined."""
RENEW_S: Final = 20.0
_FIRST_LOOK_S: Final = 0.1
_LOOK_S: Final = 1.0
_LOOK_MEMORY_S: Final = 0.02
"""Poll interval without a directory for FIFOs. Then the database is in memory, and only tasks of this process share it."""

_COLUMNS: Final = "ticket, holder, doing, since_us, claim, wake, pid, started, place, expires_us"
_PART: Final = 16
"""Number of tickets read at once."""
_LAST_TICKET: Final = 1 << 62


class Turn(NamedTuple):
    """A ticket as others see it."""

    ticket: int
    holder: str
    """The run and the proposal."""
    doing: str
    """A description for people: the action and its tool."""
    since_us: int
    """When that action began, in microseconds since the epoch."""
    claim: Claim
    wake: str
    pid: int
    started: str
    place: str
    expires_us: int

    def is_alive(self, now_us: int) -> bool:
        """True if its process is alive or may be."""
        return _started(self.pid) == self.started if self.place == _place() else now_us < self.expires_us


OnWait = Callable[[Turn], None]
"""Called with the ticket ahead, at least once a second during a wait."""


class WriteLease:
    """The right to write the claimed paths. Acquired with `LeaseQueue.acquire`; end it with `release`."""

    def __init__(self, queue: LeaseQueue, ticket: int, holder: str, claim: Claim) -> None:
        """Created by `LeaseQueue`."""
        self._queue = queue
        self.ticket = ticket
        self.holder = holder
        self.claim = claim

    def renew(self, doing: str | None = None, since_us: int | None = None) -> None:
        """Extend the expiry (every `RENEW_S`), and update the description. Raises: StoreError if the lease was lost."""
        if not self._queue.renew(self.ticket, doing, since_us):
            raise _BusyError(
                f"`{self.holder}` lost its right to write in this workspace",
                hint="another machine or container took over because it was not renewed in time",
            )

    def release(self) -> None:
        """Release the lease, and wake those whose turn it is; does nothing if the lease was lost. Raises: StoreError."""
        self._queue.remove(self.ticket)


class LeaseQueue:
    """The lease of one workspace, and the queue for it. Safe for threads and event loops."""

    def __init__(self, database: Database, workspace: str, clock: Clock, directory: Path | None) -> None:
        """`directory` (created if missing) holds the FIFOs of the waiters; None for a database in memory."""
        self._database = database
        self._workspace = workspace
        self._clock = clock
        self._directory = directory
        database.migrate("workspace", _TABLES)

    async def acquire(
        self,
        claim: Claim,
        holder: str,
        *,
        doing: str = "",
        until_ns: int | None = None,
        on_wait: OnWait | None = None,
    ) -> WriteLease:
        """Wait for the lease. `holder` is for people and unique to a proposal: `run_... prop_...`.

        `until_ns` is the monotonic time at which waiting ends. Raises: StoreError `workspace_busy`, which names the
        holder ahead; CancelledError, after leaving the queue.
        """
        ticket, before = self._enqueue(claim, holder, doing)
        lease = WriteLease(self, ticket, holder, claim)
        if before is None:
            return lease
        try:
            with bell(self._directory) as woken:
                self._wake_by(lease.ticket, woken.wake)
                await self._wait(lease, doing, woken, until_ns, on_wait)
        except BaseException:
            self.remove(lease.ticket)
            raise
        return lease

    def attempt(self, claim: Claim, holder: str, *, doing: str = "") -> WriteLease:
        """The lease, if there is no earlier overlapping ticket. Raises: StoreError `workspace_busy`."""
        ticket, before = self._enqueue(claim, holder, doing)
        if before is not None:
            self.remove(ticket)
            raise _busy(before)
        return WriteLease(self, ticket, holder, claim)

    def turns(self) -> list[Turn]:
        """All tickets of living processes, in order."""
        now_us = self._clock.now_us()
        return [turn for turn in self._rows(None) if turn.is_alive(now_us)]

    def renew(self, ticket: int, doing: str | None, since_us: int | None) -> bool:
        """See `WriteLease.renew`. False if the ticket no longer exists."""
        with self._database.transaction(lasting=False):
            self._database.execute(
                "update workspace_turns set expires_us = ?, doing = coalesce(?, doing), since_us = coalesce(?, since_us)"
                " where workspace = ? and ticket = ? and pid = ?",
                (self._clock.now_us() + EXPIRES_US, doing, since_us, self._workspace, ticket, os.getpid()),
            )
            return self._database.changes == 1

    def remove(self, ticket: int) -> None:
        """Remove a ticket, and wake those whose turn it is now. Raises: StoreError."""
        with self._database.transaction(lasting=False):
            self._database.execute(
                "delete from workspace_turns where workspace = ? and ticket = ? and pid = ?",
                (self._workspace, ticket, os.getpid()),
            )
            # in the same transaction, so that the removal and the next turns agree
            following = [turn.wake for turn in self._first()]
        for wake in following:
            ring(self._directory, wake)

    # -- internals

    def _enqueue(self, claim: Claim, holder: str, doing: str) -> tuple[int, Turn | None]:
        """Create a ticket. Returns its number, and the ticket that it waits for."""
        with self._database.transaction(lasting=False):
            now_us = self._clock.now_us()
            before = self._first_before(claim, None, now_us)
            ((last,),) = self._database.execute(
                "select max(ticket) from workspace_turns where workspace = ?", (self._workspace,)
            )
            ticket = 1 if last is None else int(last) + 1
            self._database.execute(
                f"insert into workspace_turns (workspace, {_COLUMNS}) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
                (
                    self._workspace, ticket, holder, doing, now_us, claim.encode(), "", os.getpid(), _own_start(os.getpid()),
                    _place(), now_us + EXPIRES_US,
                ),
            )  # fmt: skip
        return ticket, before

    def _wake_by(self, ticket: int, wake: str) -> None:
        """Store how to wake a waiter. From then on, writers that leave wake it."""
        with self._database.transaction(lasting=False):
            self._database.execute(
                "update workspace_turns set wake = ? where workspace = ? and ticket = ?",
                (wake, self._workspace, ticket),
            )

    async def _wait(
        self, lease: WriteLease, doing: str, woken: Bell, until_ns: int | None, on_wait: OnWait | None
    ) -> None:
        renewed_us, look_s = self._clock.now_us(), _FIRST_LOOK_S
        while True:
            before = self._look(lease, doing, woken)
            now_us, now_ns = self._clock.now_us(), self._clock.mono_ns()
            if before is None:
                if self.renew(lease.ticket, doing, now_us):
                    return
                continue  # removed as dead at this very moment
            if until_ns is not None and now_ns >= until_ns:
                raise _busy(before)
            if on_wait is not None:
                on_wait(before)
            if now_us - renewed_us >= RENEW_S * 1e6:
                renewed_us = now_us
                self.renew(lease.ticket, None, None)
            left_s = look_s if until_ns is None else min(look_s, (until_ns - now_ns) / 1e9)
            if before.place == _place() and before.pid != os.getpid():
                woken.watch(before.pid, before.started)
            await woken.wait(max(0.001, left_s))
            look_s = _LOOK_S if self._directory is not None else _LOOK_MEMORY_S

    def _look(self, lease: WriteLease, doing: str, woken: Bell) -> Turn | None:
        """The ticket that this one waits for now."""
        there = self._database.execute(
            "select 1 from workspace_turns where workspace = ? and ticket = ? and pid = ?",
            (self._workspace, lease.ticket, os.getpid()),
        )
        if not there:
            # It expired: this process was stopped for so long that others took it for dead.
            lease.ticket, before = self._enqueue(lease.claim, lease.holder, doing)
            self._wake_by(lease.ticket, woken.wake)
            return before
        now_us = self._clock.now_us()
        before = next((row for row in self._rows(lease.ticket) if row.claim.overlaps(lease.claim)), None)
        if before is None or before.is_alive(now_us):
            return before
        with self._database.transaction(lasting=False):
            return self._first_before(lease.claim, lease.ticket, now_us)

    def _first_before(self, claim: Claim, ticket: int | None, now_us: int) -> Turn | None:
        """The first ticket that overlaps and counts. Tickets of dead processes before it are removed. Needs a transaction."""
        for row in self._rows(ticket):
            if not row.claim.overlaps(claim):
                continue
            if row.is_alive(now_us):
                return row
            self._database.execute(
                "delete from workspace_turns where workspace = ? and ticket = ?", (self._workspace, row.ticket)
            )
            remove_left(self._directory, row.wake)
        return None

    def _first(self) -> Iterator[Turn]:
        """The waiters whose turn it is, according to the table."""
        earlier: list[Claim] = []
        for row in self._rows(None):
            if row.wake and not any(claim.overlaps(row.claim) for claim in earlier):
                yield row
            if row.claim.everything:
                return  # everyone after it waits for this ticket
            earlier.append(row.claim)

    def _rows(self, ticket: int | None) -> Iterator[Turn]:
        """The tickets (before this one), in order. They are read in parts, because the first few usually suffice."""
        last = 0
        while True:
            rows = self._database.execute(
                f"select {_COLUMNS} from workspace_turns where workspace = ? and ticket > ? and ticket < ?"  # noqa: S608
                " order by ticket limit ?",
                (self._workspace, last, _LAST_TICKET if ticket is None else ticket, _PART),
            )
            for row in rows:
                yield Turn._make((*row[:4], Claim.decode(row[4]), *row[5:]))
            if len(rows) < _PART:
                return
            last = rows[-1][0]


class _BusyError(StoreError):
    default_code = "workspace_busy"


def describe(turn: Turn, now_us: int) -> str:
    """A one-line description of a ticket's process, for people."""
    doing = f" runs {turn.doing}" if turn.doing else " is writing"
    seconds = max(0, now_us - turn.since_us) // 1_000_000
    return f"`{turn.holder}` (process {turn.pid}){doing}, for {seconds} s so far, and writes {turn.claim}"


def _busy(before: Turn) -> StoreError:
    doing = f" runs {before.doing} and" if before.doing else ""
    return _BusyError(
        f"`{before.holder}` (process {before.pid}){doing} is writing in this workspace",
        hint="wait until it is finished, or stop it: `interlock runs list` shows it",
    )


def _started(pid: int) -> str:
    """When a process started, in clock ticks since boot; empty if it is gone. Source: proc_pid_stat(5), field 22."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    fields = text[text.rindex(b")") + 2 :].split()
    return "" if fields[0] in (b"Z", b"X") else fields[19].decode()


@cache
def _own_start(pid: int) -> str:
    """`_started` of this process. It can be cached, because a fork has another pid."""
    return _started(pid)


@cache
def _place() -> str:
    """The scope in which a pid is meaningful: this boot and pid namespace."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"

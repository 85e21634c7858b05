"""The write lease: in `direct` mode, one proposal at a time may write in a workspace.

A lease is a row in the workspace's database, not a file lock: it names its holder to those who wait, and ends with its
process. A holder on this boot and in this pid namespace counts as long as its process lives; any other holder (in a container
that shares the state directory) counts until its expiry.
"""

from __future__ import annotations

import contextlib
import os
import time
from functools import cache
from pathlib import Path
from typing import Final, Self

from interlock.disk import Database
from interlock.model.clock import Clock
from interlock.model.errors import StoreError

_TABLE: Final = """
create table workspace_leases (
    workspace text primary key,
    holder text not null,
    pid integer not null,
    started text not null,
    place text not null,
    expires_us bigint not null
)
"""
_LEASE_US: Final = 60_000_000
_POLL_SECONDS: Final = 0.02


class WriteLease:
    """The right to write in a workspace. Release it with `release`, or use it in a `with` block."""

    def __init__(self, database: Database, workspace: str, holder: str, clock: Clock) -> None:
        """Made by `acquire` and `attempt`."""
        self._database = database
        self._clock = clock
        self.workspace = workspace
        self.holder = holder

    @classmethod
    def acquire(cls, database: Database, workspace: str, holder: str, clock: Clock, *, wait_ms: int = 0) -> WriteLease:
        """The lease, after waiting up to `wait_ms` for it (this blocks; on an event loop, poll `attempt`).

        `holder` is for people and unique to the proposal, for example `run_... prop_...`.
        Raises: StoreError `workspace_busy`, naming the holder.
        """
        for _ in range(round(wait_ms / 1000 / _POLL_SECONDS)):
            with contextlib.suppress(_BusyError):
                return cls.attempt(database, workspace, holder, clock)
            time.sleep(_POLL_SECONDS)
        return cls.attempt(database, workspace, holder, clock)

    @classmethod
    def attempt(cls, database: Database, workspace: str, holder: str, clock: Clock) -> WriteLease:
        """The lease, if it is free or its holder is dead. Raises: StoreError `workspace_busy`."""
        database.migrate("workspace", [_TABLE])
        with database.transaction(lasting=False):
            rows = database.execute(
                "select holder, pid, started, place, expires_us from workspace_leases where workspace = ?", (workspace,)
            )
            if rows and _alive(*rows[0][1:], now_us=clock.now_us()):
                raise _BusyError(
                    f"`{rows[0][0]}` (process {rows[0][1]}) is writing in this workspace",
                    hint="wait until it is finished, or stop it: `interlock runs list` shows it, and `interlock approvals list`"
                    " whether it waits for an answer",
                )
            database.execute("delete from workspace_leases where workspace = ?", (workspace,))
            database.execute(
                "insert into workspace_leases values (?, ?, ?, ?, ?, ?)",
                (workspace, holder, os.getpid(), _started(os.getpid()), _place(), clock.now_us() + _LEASE_US),
            )
        return cls(database, workspace, holder, clock)

    def renew(self) -> None:
        """Extend the expiry; call it every 20 s while the proposal runs. Raises: StoreError if the lease was lost."""
        with self._database.transaction(lasting=False):
            self._database.execute(
                "update workspace_leases set expires_us = ? where workspace = ? and holder = ? and pid = ?",
                (self._clock.now_us() + _LEASE_US, self.workspace, self.holder, os.getpid()),
            )
            if self._database.changes != 1:
                raise _BusyError(
                    f"`{self.holder}` lost its right to write in this workspace",
                    hint="another machine or container took over because it was not renewed in time",
                )

    def release(self) -> None:
        """Release the lease; does nothing if it was lost."""
        with self._database.transaction(lasting=False):
            self._database.execute(
                "delete from workspace_leases where workspace = ? and holder = ? and pid = ?",
                (self.workspace, self.holder, os.getpid()),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class _BusyError(StoreError):
    default_code = "workspace_busy"


def _alive(pid: int, started: str, place: str, expires_us: int, *, now_us: int) -> bool:
    if place == _place():
        return _started(pid) == started
    return now_us < expires_us


def _started(pid: int) -> str:
    """When a process started, in clock ticks since boot; empty if it is gone. Source: proc_pid_stat(5), field 22."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    fields = text[text.rindex(b")") + 2 :].split()
    return "" if fields[0] in (b"Z", b"X") else fields[19].decode()


@cache
def _place() -> str:
    """The scope in which a pid is meaningful: this boot and pid namespace."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"

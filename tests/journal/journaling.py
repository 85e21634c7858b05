"""What the journal's tests share: events, a writer, a clock that makes the disk look slow."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from interlock.disk import Disk
from interlock.journal import Durability, JournalWriter
from interlock.model.canonical import canonical
from interlock.model.events import ActionFailed, ActionIntent, ActionLog, ActionSucceeded, Kept, RunStarted
from interlock.testing import FakeClock

RUN = "run_0000000000000000000000000000abcd"


class SlowClock(FakeClock):
    """Each look at it lets 5 ms pass: to the writer, every sync is slow."""

    def mono_ns(self) -> int:
        self.advance(0.005)
        return super().mono_ns()


class CountingDisk(Disk):
    """Counts what the writer asks for."""

    def __init__(self) -> None:
        self.syncs = 0
        self.writes = 0

    def write(self, fd: int, data: bytes) -> None:
        self.writes += 1
        super().write(fd, data)

    def sync_data(self, fd: int) -> None:
        self.syncs += 1
        super().sync_data(fd)


def started() -> RunStarted:
    return RunStarted(ts=1, mono=1, run=RUN, interlock="0", workspace="w", agent="a", configuration="sha256:0")


def intent(action: str, attempt: int = 1) -> ActionIntent:
    return ActionIntent(ts=2, mono=2, proposal="p", action=action, step=8, attempt=attempt, tool="t")


def succeeded(action: str, attempt: int = 1) -> ActionSucceeded:
    output = Kept(digest="sha256:1", bytes=4)
    return ActionSucceeded(
        ts=3, mono=3, proposal="p", action=action, step=10, attempt=attempt, duration_ms=1.5, output=output
    )


def failed(action: str, attempt: int = 1) -> ActionFailed:
    return ActionFailed(
        ts=3, mono=3, proposal="p", action=action, step=10, attempt=attempt, reason="tool_failed", error="no"
    )


def log(message: str) -> ActionLog:
    return ActionLog(ts=4, mono=4, proposal="p", action="a", message=message)


def open_writer(
    run_dir: Path,
    *,
    disk: Disk | None = None,
    clock: FakeClock | None = None,
    durability: Durability = "full",
    create: bool = True,
) -> JournalWriter:
    return JournalWriter.open(
        run_dir,
        run_id=run_dir.name,
        disk=disk or Disk(),
        clock=clock or FakeClock(),
        durability=durability,
        create=create,
    )


def keep(writer: JournalWriter, value: Any, view: Any = ...) -> Kept:
    return writer.keep(canonical(value), value if view is ... else view, value)


def run(coroutine: Any) -> Any:
    """asyncio.run, with a limit so that a waiter that is never woken fails instead of hanging."""

    async def limited() -> Any:
        async with asyncio.timeout(20):
            return await coroutine

    return asyncio.run(limited())

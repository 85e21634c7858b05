"""Streams the audit to sinks outside the database: a file, a command, a webhook, or any `AuditSink`.

Each sink has a cursor in the database, so it gets every record in order, starting with the first, including those of other
processes and those from times when it could not be reached. Delivery is at least once: the cursor moves after a record was
accepted, so a process that is killed in between delivers it again; a receiver recognises it by `seq`. One process at a time
delivers to a sink. Nothing here delays an answer; a failed delivery is retried until it succeeds.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

import msgspec

from interlock.approvals.audit import Audit, AuditRecord
from interlock.approvals.notifiers import Command, Webhook
from interlock.approvals.notify import NotifyError
from interlock.approvals.time import SharedTime
from interlock.disk import Database, Disk
from interlock.model.errors import InterlockError, StoreError

POLL_S: Final = 1.0
"""Poll interval: other processes write records too."""
TIMEOUT_S: Final = 10.0
BACK_OFF_MAX_S: Final = 60.0
_AT_ONCE: Final = 100
_SCHEMA: Final = ("create table approvals_audit_sinks (name text primary key, seq bigint not null)",)


@runtime_checkable
class AuditSink(Protocol):
    """Takes audit records."""

    name: str
    """The name of its cursor in the database, shown in case of a failure; must not contain secrets."""

    def write(self, record: AuditRecord, timeout_s: float) -> None:
        """Accept one record, within the time limit. Called on a separate thread. After NotifyError, it gets the record again."""
        ...


class FileSink:
    """Appends each record as a line of JSON to a file (0600), which is synced."""

    def __init__(self, path: Path, disk: Disk) -> None:
        """`path` is absolute, and no agent may write there."""
        self.name = f"file {path}"
        self._path = path
        self._disk = disk

    def write(self, record: AuditRecord, timeout_s: float) -> None:  # noqa: ARG002 # a write to a disk has no time limit
        """Append the record. Raises: NotifyError."""
        try:
            fd = self._disk.open_append(self._path)
            try:
                self._disk.write(fd, msgspec.json.encode(record) + b"\n")
                self._disk.sync_data(fd)
            finally:
                os.close(fd)
        except StoreError as error:
            raise NotifyError(error.message) from None


class CommandSink:
    """Runs a program for each record, with the record as JSON on standard input, like the command notifier."""

    def __init__(self, command: Command) -> None:
        """The sink, and its cursor, are named after the command."""
        self.name = command.name
        self._command = command

    def write(self, record: AuditRecord, timeout_s: float) -> None:
        """Run the command to its end. Raises: NotifyError."""
        self._command.run(msgspec.json.encode(record), timeout_s)


class WebhookSink:
    """Posts each record as signed JSON, like the webhook notifier."""

    def __init__(self, webhook: Webhook) -> None:
        """The sink, and its cursor, are named after the webhook."""
        self.name = webhook.name
        self._webhook = webhook

    def write(self, record: AuditRecord, timeout_s: float) -> None:
        """Post the record. Raises: NotifyError."""
        self._webhook.post(msgspec.json.encode(record), timeout_s)


class FunctionSink:
    """Calls the application's own function."""

    def __init__(self, function: Callable[[AuditRecord], None]) -> None:
        """The sink, and its cursor, are named after the function."""
        self.name = f"function {getattr(function, '__qualname__', 'sink')}"
        self._function = function

    def write(self, record: AuditRecord, timeout_s: float) -> None:  # noqa: ARG002 # the function must keep the limit
        """Call the function."""
        self._function(record)


class AuditStream:
    """Delivers the audit to sinks, each on a separate thread."""

    def __init__(self, database: Database, audit: Audit, time: SharedTime, locks: Path | None, disk: Disk) -> None:
        """`locks` is a directory with one lock file per sink; None if no other process uses the database."""
        database.migrate("approvals_audit_sinks", _SCHEMA)
        self._database = database
        self._audit = audit
        self._time = time
        self._locks = locks
        self._disk = disk
        self._deliveries: list[_Delivery] = []
        audit.written = self._ring

    def attach(self, sink: AuditSink) -> None:
        """Start delivery to a sink, with the first record that it has not received."""
        lock = None if self._locks is None else self._locks / f"{_file_name(sink.name)}.lock"
        delivery = _Delivery(self._database, self._audit, self._time, sink, lock, self._disk)
        self._deliveries.append(delivery)
        delivery.start()

    def close(self, timeout_s: float) -> None:
        """Give each sink `timeout_s` to accept the pending records, and stop. The next process delivers the rest."""
        for delivery in self._deliveries:
            delivery.stop()
        for delivery in self._deliveries:
            delivery.join(timeout_s)

    def _ring(self) -> None:
        for delivery in self._deliveries:
            delivery.ring()


class _Delivery(threading.Thread):
    """One sink with its cursor."""

    def __init__(
        self, database: Database, audit: Audit, time: SharedTime, sink: AuditSink, lock: Path | None, disk: Disk
    ) -> None:
        super().__init__(name=f"interlock-audit-{sink.name}", daemon=True)
        self._database = database
        self._audit = audit
        self._time = time
        self._sink = sink
        self._lock = lock
        self._disk = disk
        self._held: int | None = None
        self._rung = threading.Event()
        self._stopping = False
        self._failing = False

    def ring(self) -> None:
        """Signal that there may be records to deliver."""
        self._rung.set()

    def stop(self) -> None:
        """Deliver the pending records, and end."""
        self._stopping = True
        self._rung.set()

    def run(self) -> None:
        """Deliver until stopped."""
        pause = POLL_S
        try:
            while True:
                stopping = self._stopping  # read first, so that records written before the stop are delivered below
                try:
                    done = self._deliver()
                except InterlockError:  # the database is locked, or was closed
                    done = False
                if stopping:
                    return
                pause = POLL_S if done else min(BACK_OFF_MAX_S, pause * 2)
                self._rung.wait(pause)
                self._rung.clear()
        finally:
            if self._held is not None:
                os.close(self._held)

    def _deliver(self) -> bool:
        """Deliver the missing records. False if the sink cannot accept them now. Raises: StoreError, UsageError."""
        if self._lock is not None and self._held is None:
            self._held = self._disk.lock(self._lock)
            if self._held is None:
                return True  # another process delivers
        while records := self._audit.records(after=self._cursor(), limit=_AT_ONCE):
            for record in records:
                problem = self._try(record)
                if problem is not None:
                    self._record_failure(problem)
                    return False
                self._failing = False
                self._advance(record.seq)
        return True

    def _try(self, record: AuditRecord) -> str | None:
        try:
            self._sink.write(record, TIMEOUT_S)
        except NotifyError as error:
            return error.message
        except Exception as error:  # noqa: BLE001 # someone else's code: only the kind is safe to repeat
            return f"raised {type(error).__name__}"
        return None

    def _record_failure(self, problem: str) -> None:
        """Record a failure once when a sink starts to fail, because this record has to be delivered too."""
        if self._failing:
            return
        self._failing = True
        with contextlib.suppress(InterlockError), self._database.transaction():
            now = self._time.tick()
            self._audit.write(now, "audit_failed", self._sink.name, who=self._sink.name, detail={"problem": problem})

    def _cursor(self) -> int:
        rows = self._database.execute("select seq from approvals_audit_sinks where name = ?", (self._sink.name,))
        return int(rows[0][0]) if rows else 0

    def _advance(self, seq: int) -> None:
        with self._database.transaction():
            self._database.execute(
                "insert into approvals_audit_sinks values (?, ?) on conflict (name) do update set seq = excluded.seq",
                (self._sink.name, seq),
            )


def _file_name(name: str) -> str:
    """Returns the file name for a sink's name, which may contain any characters and be long."""
    return "audit-" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]

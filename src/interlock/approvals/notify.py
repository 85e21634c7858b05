"""Notifies people of a hold: terminal bell, webhook, command, or any `Notifier`.

Notification never delays the answer: each notifier has its own queue and daemon thread, a time limit for each attempt, and
a few attempts. A failure, a hang or a full queue is recorded in the audit table; after `HUNG_MAX` hung attempts the notifier
is disabled. Notifiers get redacted holds only.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Final, Protocol, runtime_checkable

from interlock.approvals.audit import Audit
from interlock.approvals.hold import Hold
from interlock.approvals.time import SharedTime
from interlock.model.errors import InterlockError

TIMEOUT_S: Final = 10.0
TRIES: Final = 3
BACK_OFF_S: Final = 1.0
QUEUE_MAX: Final = 1000
HUNG_MAX: Final = 3


class NotifyError(InterlockError):
    """A notifier could not deliver. `permanent` means that a retry is pointless."""

    fault = "machine"
    default_code = "notify_failed"

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        """`message` must not contain secrets or data of the hold."""
        super().__init__(message)
        self.permanent = permanent


@runtime_checkable
class Notifier(Protocol):
    """Notifies people. `interlock.testing.notifiers` has the tests that every notifier must pass."""

    name: str
    """Shown in the audit table; must not hold secrets."""

    def notify(self, hold: Hold, timeout_s: float) -> None:
        """Notify about one hold, within the time limit. Called on a separate thread. Raises: NotifyError."""
        ...


class Notifications:
    """Passes each new hold to every notifier."""

    def __init__(
        self,
        notifiers: Sequence[Notifier],
        audit: Audit,
        time: SharedTime,
        *,
        timeout_s: float = TIMEOUT_S,
        back_off_s: float = BACK_OFF_S,
    ) -> None:
        """Threads start with the first hold."""
        self._audit = audit
        self._time = time
        self._limits = timeout_s, back_off_s
        self._desks: list[_Desk] = []
        for notifier in notifiers:
            self.add(notifier)

    def add(self, notifier: Notifier) -> None:
        """Add a notifier, from the next hold on."""
        self._desks.append(_Desk(notifier, *self._limits, self._record))

    def tell(self, hold: Hold) -> None:
        """Queue a notification for every notifier. Returns at once and never raises."""
        for desk in self._desks:
            desk.put(hold)

    def drain(self, timeout_s: float) -> bool:
        """At the end of a process, wait until every notification is delivered or given up. Returns False after the time limit."""
        return all(desk.idle.wait(timeout_s) for desk in self._desks)

    def _record(self, hold: Hold, name: str, problem: str) -> None:
        # This thread is never joined, and a failing database must not end the notifications.
        with contextlib.suppress(Exception):
            self._audit.write(self._time.now_us(), "notify_failed", hold.id, who=name, detail={"problem": problem})


class _Desk:
    """One notifier with its queue and thread."""

    def __init__(
        self, notifier: Notifier, timeout_s: float, back_off_s: float, record: Callable[[Hold, str, str], None]
    ) -> None:
        self._notifier = notifier
        self._timeout_s = timeout_s
        self._back_off_s = back_off_s
        self._record = record
        self._queue: queue.Queue[Hold] = queue.Queue(QUEUE_MAX)
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._hung = 0
        self._dropped: Hold | None = None
        self.idle = threading.Event()
        self.idle.set()

    def put(self, hold: Hold) -> None:
        """Queue a notification. If the queue is full, the notification is dropped, which the thread records later."""
        with self._lock:
            self.idle.clear()
            try:
                self._queue.put_nowait(hold)
            except queue.Full:
                self._dropped = hold
            if self._thread is None:
                name = f"interlock-notify-{self._notifier.name}"
                self._thread = threading.Thread(target=self._work, name=name, daemon=True)
                self._thread.start()

    def _work(self) -> None:
        while True:
            hold = self._queue.get()
            dropped, self._dropped = self._dropped, None
            if dropped is not None:
                self._record(
                    dropped, self._notifier.name, "the queue was full; this notification and maybe others were dropped"
                )
            problem = "disabled after it hung" if self._hung >= HUNG_MAX else self._deliver(hold)
            if problem is not None:
                self._record(hold, self._notifier.name, problem)
            with self._lock:
                if self._queue.empty():
                    self.idle.set()

    def _deliver(self, hold: Hold) -> str | None:
        """Make a few attempts. Returns the last problem, or None."""
        problem: str | None = None
        for attempt in range(TRIES):
            if attempt:
                threading.Event().wait(self._back_off_s * 2 ** (attempt - 1))
            problem, again = self._try(hold)
            if problem is None or not again:
                return problem
        return problem

    def _try(self, hold: Hold) -> tuple[str | None, bool]:
        """One attempt on a separate thread, which is abandoned if it does not return in time."""
        result: list[tuple[str | None, bool]] = []

        def run() -> None:
            try:
                self._notifier.notify(hold, self._timeout_s)
                result.append((None, False))
            except NotifyError as error:
                result.append((error.message, not error.permanent))
            except Exception as error:  # noqa: BLE001 # someone else's code: only the kind is safe to repeat
                result.append((f"raised {type(error).__name__}", True))

        thread = threading.Thread(target=run, name=f"interlock-notify-{self._notifier.name}-try", daemon=True)
        thread.start()
        thread.join(self._timeout_s * 1.2 + 0.05)  # slightly more than the notifier's own limit
        if result:
            self._hung = 0
            return result[0]
        self._hung += 1
        return "did not return within its time limit", False

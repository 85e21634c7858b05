"""The desk, which asks questions: the store of approvals, the waiters for answers, and the notifiers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from interlock.approvals import (
    ApprovalStore,
    Approvers,
    AuditRecord,
    GrantStore,
    Hold,
    action_digest,
)
from interlock.detect import QuestionRedactor, Redactor
from interlock.disk import Database, Disk
from interlock.lazy import lazy
from interlock.model.clock import Clock, Ids
from interlock.model.errors import UsageError

if TYPE_CHECKING:
    import asyncio

    from interlock.approvals import audit_sinks, notifiers, notify, wait
else:
    audit_sinks = lazy("interlock.approvals.audit_sinks")
    notifiers = lazy("interlock.approvals.notifiers")
    notify = lazy("interlock.approvals.notify")
    wait = lazy("interlock.approvals.wait")

CLOSE_S: Final = 2.0
"""The time for notifications and audit sinks at the end of a process."""


class Asking(NamedTuple):
    """The caller's options for the questions of one piece of work."""

    wait: bool = True
    """False to leave a held action open at once."""
    tell: Callable[[Hold], None] | None = None
    """Called with each question of this work. Must return at once."""


_ASKED: Final = Asking()
ASKING: ContextVar[Asking] = ContextVar("interlock_asking", default=_ASKED)
"""The options of the current work. A context variable: many callers share a desk, and a call's tasks inherit its context."""


class Desk:
    """The approvals of one workspace, for one process."""

    def __init__(
        self,
        db: Database,
        home: Path | None,
        clock: Clock,
        ids: Ids,
        *,
        boot: str,
        user: str,
        redactor: Redactor,
        groups: dict[str, tuple[str, ...]],
        ttl_ms: int,
        separation: bool,
        ttl_max_ms: int | None = None,
        agent_groups: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """`home` is the workspace's state directory (None: nothing outlives this process); `user` runs this process.

        `ttl_ms` is the default waiting time of a question, `ttl_max_ms` the upper bound for all questions.

        `groups` (of approvers) and `agent_groups` are from the configuration, each with its members.
        """
        self._home = home
        self._db = db
        self._stream: audit_sinks.AuditStream | None = None
        self.wake: wait.Wake = wait.LocalWake() if home is None else wait.WakeFile(home / "wake")
        """Signals each change of a question."""
        self._redactor = redactor
        self.questions = QuestionRedactor(redactor)
        """Redacts questions: it shows everything that could be code."""
        self.store = ApprovalStore(db, clock, ids, boot=boot, redact=self.questions.redact, changed=self.wake.ring)
        self.issued = GrantStore(db, self.store.time, ids, self.store.audit)
        self.approvers = Approvers(db, self.store.time, ids, self.store.audit, groups=groups)
        self.user = user
        self.ttl_ms = ttl_ms
        self.ttl_max_ms = ttl_max_ms
        self.separation = separation
        self.agent_groups = agent_groups or {}
        self.wait = True
        """False to leave a held action open at once, so that the run has to be resumed."""
        self.expected = False
        """In memory: True if the program answers through `approvals`, so that a question may wait without a listener."""
        self.listeners: list[Callable[[Hold], None]] = []
        """Called with each question when it is asked (such as a prompt at the terminal). Must return at once."""
        self._notifications: notify.Notifications | None = None
        self._waiters: dict[asyncio.AbstractEventLoop, wait.Waiter] = {}

    @property
    def runs_directory(self) -> Path:
        """The directory of the journals with the originals of hidden values. Raises: UsageError `not_available`."""
        return self._kept() / "runs"

    @property
    def outlives(self) -> bool:
        """True if questions outlive this process, so that a held action can be left open, and answered from elsewhere."""
        return self._home is not None

    def _kept(self) -> Path:
        if self._home is None:
            raise UsageError("this runtime keeps its questions in memory only", code="not_available")
        return self._home

    @property
    def cannot_ask(self) -> str | None:
        """Why no person could answer a question of the current work; None if one could.

        In memory, only a listener of this process can answer, while the question waits.
        """
        if self.outlives:
            return None
        if not self.waits:
            return "a runtime in memory cannot leave a question open (`wait=False`)"
        heard = self.expected or self.listeners or ASKING.get().tell is not None or self._notifications is not None
        return None if heard else "no one can answer here: this runtime has neither `on_question` nor `approvals.ttl`"

    @property
    def waits(self) -> bool:
        """True if a held action of the current work waits for its answer."""
        return self.wait and ASKING.get().wait

    def configure(
        self,
        *,
        groups: dict[str, tuple[str, ...]],
        ttl_ms: int,
        ttl_max_ms: int | None,
        separation: bool,
        agent_groups: Mapping[str, Sequence[str]],
    ) -> None:
        """Apply an edited configuration to later questions, and to the right to answer any question."""
        self.approvers.configured = groups
        self.ttl_ms, self.ttl_max_ms = ttl_ms, ttl_max_ms
        self.separation = separation
        self.agent_groups = agent_groups

    def notify_through(self, notifiers: Sequence[notify.Notifier]) -> None:
        """Notify these of each question."""
        self._notifications = notify.Notifications(notifiers, self.store.audit, self.store.time) if notifiers else None

    def add_notifier(self, notifier: notify.Notifier | Callable[[Hold], None]) -> None:
        """Notify this one too of each question; a plain function is called with it."""
        found = notifier if isinstance(notifier, notify.Notifier) else notifiers.Function(notifier)
        if self._notifications is None:
            self.notify_through([found])
        else:
            self._notifications.add(found)

    def attach(self, sink: audit_sinks.AuditSink | Callable[[AuditRecord], None]) -> None:
        """Copy the audit to a sink from now on, starting with the first record that it has not received."""
        if self._stream is None:
            locks = self._home
            self._stream = audit_sinks.AuditStream(self._db, self.store.audit, self.store.time, locks, Disk())
        self._stream.attach(sink if isinstance(sink, audit_sinks.AuditSink) else audit_sinks.FunctionSink(sink))

    def keyed(self, digest: str) -> str:
        """A keyed digest, which cannot be used to confirm a guess of the content."""
        return self._redactor.keyed(digest)

    def call_digest(self, tool: str, tool_version: str, parameters: Any) -> str:
        """The digest to which an approval of a call is bound. Raises: CanonicalError."""
        return self._redactor.keyed(action_digest(tool, tool_version, parameters))

    def tell(self, hold: Hold, *, here: bool = True) -> None:
        """Notify all listeners and notifiers; listeners of this process only if it waits `here`. Never waits, never raises."""
        if self._notifications is not None:
            # Notifiers send it outside of this machine, where it cannot be answered: everything that may be a secret is redacted.
            fields = ("summary", "reason", "parameters", "context")
            redacted = {name: self._redactor.redact(getattr(hold, name)) for name in fields}
            self._notifications.tell(msgspec.structs.replace(hold, **redacted, changes=()))
        if not here:
            return
        asking = ASKING.get()
        for listener in (*self.listeners, *(() if asking.tell is None else (asking.tell,))):
            listener(hold)

    def waiter(self, loop: asyncio.AbstractEventLoop) -> wait.Waiter:
        """The waiter on that loop."""
        for closed in [other for other in self._waiters if other.is_closed()]:
            self._waiters.pop(closed).close()
        return self._waiters.setdefault(loop, wait.Waiter(self.store, self.wake))

    def close(self) -> None:
        """Give notifications and audit sinks time to finish, and stop waiting."""
        if self._notifications is not None:
            self._notifications.drain(CLOSE_S)
        if self._stream is not None:
            self._stream.close(CLOSE_S)
        for waiter in self._waiters.values():
            waiter.close()
        self._waiters.clear()
        if isinstance(self.wake, wait.LocalWake):
            self.wake.close()

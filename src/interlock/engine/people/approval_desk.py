"""Where questions are asked: the store of approvals, the waiters for answers, and the notifiers."""

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
"""What notifications and audit sinks get at the end of a process."""


class Asking(NamedTuple):
    """How the caller of one piece of work wants to be asked."""

    wait: bool = True
    """False: a held action is left open at once."""
    tell: Callable[[Hold], None] | None = None
    """Told of each question of this work. Must return at once."""


_ASKED: Final = Asking()
ASKING: ContextVar[Asking] = ContextVar("interlock_asking", default=_ASKED)
"""Of the work under way. A context variable, because many callers share a desk, and a call's tasks inherit its context."""


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
        """`home` is the workspace's state directory (None: nothing outlives this process); `user` is who runs this process.

        `ttl_ms` is how long a question waits whose policies do not say, `ttl_max_ms` the most that any may wait.

        `groups` (of approvers) and `agent_groups` are from the configuration: each with its members.
        """
        self._home = home
        self._db = db
        self._stream: audit_sinks.AuditStream | None = None
        self.wake: wait.Wake = wait.LocalWake() if home is None else wait.WakeFile(home / "wake")
        """Rings whenever a question has changed."""
        self._redactor = redactor
        self.questions = QuestionRedactor(redactor)
        """What a question is redacted with: it shows all that could be code."""
        self.store = ApprovalStore(db, clock, ids, boot=boot, redact=self.questions.redact, changed=self.wake.ring)
        self.issued = GrantStore(db, self.store.time, ids, self.store.audit)
        self.approvers = Approvers(db, self.store.time, ids, self.store.audit, groups=groups)
        self.user = user
        self.ttl_ms = ttl_ms
        self.ttl_max_ms = ttl_max_ms
        self.separation = separation
        self.agent_groups = agent_groups or {}
        self.wait = True
        """False: a held action is left open at once, and the run is to be resumed."""
        self.expected = False
        """In memory: the program answers through `approvals`, so that a question may wait with no listener."""
        self.listeners: list[Callable[[Hold], None]] = []
        """Told of each question as it is asked (a prompt at the terminal). Must return at once."""
        self._notifications: notify.Notifications | None = None
        self._waiters: dict[asyncio.AbstractEventLoop, wait.Waiter] = {}

    @property
    def runs_directory(self) -> Path:
        """Where the journals are that hold the originals of what questions hide. Raises: UsageError `not_available`."""
        return self._kept() / "runs"

    @property
    def outlives(self) -> bool:
        """True if questions outlive this process, so that what is held can be left open, and answered from elsewhere."""
        return self._home is not None

    def _kept(self) -> Path:
        if self._home is None:
            raise UsageError("this runtime keeps its questions in memory only", code="not_available")
        return self._home

    @property
    def can_ask(self) -> bool:
        """True if a person could answer a question of the work under way: in memory, only who listens here, and waits."""
        if self.outlives:
            return True
        heard = self.expected or self.listeners or ASKING.get().tell is not None or self._notifications is not None
        return bool(heard) and self.waits

    @property
    def waits(self) -> bool:
        """True if a held action of the work under way waits for its answer."""
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
        """Take over an edited configuration: for questions from now on, and for who may answer any."""
        self.approvers.configured = groups
        self.ttl_ms, self.ttl_max_ms = ttl_ms, ttl_max_ms
        self.separation = separation
        self.agent_groups = agent_groups

    def notify_through(self, notifiers: Sequence[notify.Notifier]) -> None:
        """Tell these of each question."""
        self._notifications = notify.Notifications(notifiers, self.store.audit, self.store.time) if notifiers else None

    def add_notifier(self, notifier: notify.Notifier | Callable[[Hold], None]) -> None:
        """Tell this too of each question; a plain function is called with it."""
        found = notifier if isinstance(notifier, notify.Notifier) else notifiers.Function(notifier)
        if self._notifications is None:
            self.notify_through([found])
        else:
            self._notifications.add(found)

    def attach(self, sink: audit_sinks.AuditSink | Callable[[AuditRecord], None]) -> None:
        """Copy the audit to a sink from now on, beginning with what it has not had; a plain function is called with it."""
        if self._stream is None:
            locks = self._home
            self._stream = audit_sinks.AuditStream(self._db, self.store.audit, self.store.time, locks, Disk())
        self._stream.attach(sink if isinstance(sink, audit_sinks.AuditSink) else audit_sinks.FunctionSink(sink))

    def keyed(self, digest: str) -> str:
        """A digest that does not confirm a guess of what it is of."""
        return self._redactor.keyed(digest)

    def call_digest(self, tool: str, tool_version: str, parameters: Any) -> str:
        """What an approval of a call is bound to. Raises: CanonicalError."""
        return self._redactor.keyed(action_digest(tool, tool_version, parameters))

    def tell(self, hold: Hold, *, here: bool = True) -> None:
        """Tell everybody who wants to know; those in this process only if it waits `here`. Never waits, never raises."""
        if self._notifications is not None:
            # They send it outside this machine, where it cannot be answered: everything that may be a secret is redacted.
            fields = ("summary", "reason", "parameters", "context")
            redacted = {name: self._redactor.redact(getattr(hold, name)) for name in fields}
            self._notifications.tell(msgspec.structs.replace(hold, **redacted, changes=()))
        if not here:
            return
        asking = ASKING.get()
        for listener in (*self.listeners, *(() if asking.tell is None else (asking.tell,))):
            listener(hold)

    def waiter(self, loop: asyncio.AbstractEventLoop) -> wait.Waiter:
        """What waits on that loop."""
        for closed in [other for other in self._waiters if other.is_closed()]:
            self._waiters.pop(closed).close()
        return self._waiters.setdefault(loop, wait.Waiter(self.store, self.wake))

    def close(self) -> None:
        """Give notifications and audit sinks a moment, and stop waiting."""
        if self._notifications is not None:
            self._notifications.drain(CLOSE_S)
        if self._stream is not None:
            self._stream.close(CLOSE_S)
        for waiter in self._waiters.values():
            waiter.close()
        self._waiters.clear()
        if isinstance(self.wake, wait.LocalWake):
            self.wake.close()

"""Where questions are asked: the store of approvals, the waiters for answers, and the notifiers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from interlock.approvals import (
    ApprovalStore,
    Approvers,
    GrantStore,
    Hold,
    Notifications,
    Notifier,
    Waiter,
    WakeFile,
    action_digest,
)
from interlock.detect import QuestionRedactor, Redactor
from interlock.disk import Database
from interlock.model.clock import Clock, Ids


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
        home: Path,
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
        """`home` is the workspace's state directory; `user` is who runs this process.

        `ttl_ms` is how long a question waits whose policies do not say, `ttl_max_ms` the most that any may wait.

        `groups` (of approvers) and `agent_groups` are from the configuration: each with its members.
        """
        self.wake_directory = home / "wake"
        """A file in it is touched whenever a question has changed."""
        self.runs_directory = home / "runs"
        """Where the journals are that hold the originals of what questions hide."""
        self._wake = WakeFile(self.wake_directory)
        self._redactor = redactor
        self.questions = QuestionRedactor(redactor)
        """What a question is redacted with: it shows all that could be code."""
        self.store = ApprovalStore(db, clock, ids, boot=boot, redact=self.questions.redact, changed=self._wake.ring)
        self.issued = GrantStore(db, self.store.time, ids, self.store.audit)
        self.approvers = Approvers(db, self.store.time, ids, self.store.audit, groups=groups)
        self.user = user
        self.ttl_ms = ttl_ms
        self.ttl_max_ms = ttl_max_ms
        self.separation = separation
        self.agent_groups = agent_groups or {}
        self.wait = True
        """False: a held action is left open at once, and the run is to be resumed."""
        self.listeners: list[Callable[[Hold], None]] = []
        """Told of each question as it is asked (a prompt at the terminal). Must return at once."""
        self._notifications: Notifications | None = None
        self._waiters: dict[asyncio.AbstractEventLoop, Waiter] = {}

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

    def notify_through(self, notifiers: Sequence[Notifier]) -> None:
        """Tell these of each question."""
        self._notifications = Notifications(notifiers, self.store.audit, self.store.time) if notifiers else None

    def call_digest(self, tool: str, tool_version: str, parameters: Any) -> str:
        """What an approval of a call is bound to. Raises: CanonicalError."""
        return self._redactor.keyed(action_digest(tool, tool_version, parameters))

    def tell(self, hold: Hold, *, here: bool = True) -> None:
        """Tell everybody who wants to know; those in this process only if it waits `here`. Never waits, never raises."""
        if self._notifications is not None:
            # They send it outside this machine, where it cannot be answered: everything that may be a secret is redacted.
            fields = ("summary", "reason", "parameters", "context")
            redacted = {name: self._redactor.redact(getattr(hold, name)) for name in fields}
            self._notifications.tell(msgspec.structs.replace(hold, **redacted))
        if not here:
            return
        asking = ASKING.get()
        for listener in (*self.listeners, *(() if asking.tell is None else (asking.tell,))):
            listener(hold)

    def waiter(self, loop: asyncio.AbstractEventLoop) -> Waiter:
        """What waits on that loop."""
        for closed in [other for other in self._waiters if other.is_closed()]:
            self._waiters.pop(closed).close()
        return self._waiters.setdefault(loop, Waiter(self.store, self._wake))

    def close(self) -> None:
        """Give notifications a moment to arrive, and stop waiting."""
        if self._notifications is not None:
            self._notifications.drain(2.0)
        for waiter in self._waiters.values():
            waiter.close()
        self._waiters.clear()

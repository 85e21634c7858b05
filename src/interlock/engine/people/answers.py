"""Answers questions from outside the run that asked them, for a REST server, a console or a command.

This module re-exports the names of `approvals` that doors use, because doors import only the engine and the model.
"""

from __future__ import annotations

from typing import Any

from interlock.approvals import AccessError, Approver, AuditRecord, Hold, Outcome, Standing
from interlock.approvals.approvers import FAILURES_WINDOW_US
from interlock.approvals.hold import ChangeShown, Choice, Kind, Scope, Status, Surface, Vote
from interlock.engine.people.approval_desk import Desk
from interlock.engine.people.originals import original_parameters

__all__ = [
    "RETRY_AFTER_S",
    "AccessError",
    "Answering",
    "Approver",
    "AuditRecord",
    "ChangeShown",
    "Choice",
    "Hold",
    "Kind",
    "Outcome",
    "Scope",
    "Standing",
    "Status",
    "Surface",
    "Vote",
]

RETRY_AFTER_S = FAILURES_WINDOW_US // 1_000_000
"""The longest time after which a source with too many failures may try again."""


class Answering:
    """The questions of a workspace, for one surface. Every method may block while the database is locked."""

    def __init__(self, desk: Desk, surface: Surface) -> None:
        """`surface` is the name in votes and audit records."""
        self._desk = desk
        self._surface = surface

    def has_approvers(self) -> bool:
        """False if there is no approver with a token yet."""
        return bool(self._desk.approvers.all())

    def by_token(self, token: str, source: str) -> Approver:
        """The approver with this token from `source`. Raises: AccessError (`unauthenticated`, `too_many_failures`)."""
        return self._desk.approvers.by_token(token, f"{self._surface}:{source}")

    def holds(self, status: Status | None = "pending", *, after: int = 0, limit: int = 100) -> list[Hold]:
        """Questions in order of creation, from `seq` above `after`; None for all."""
        return self._desk.store.list_holds(status, after=after, limit=limit)

    def hold(self, hold_id: str) -> Hold | None:
        """A question by its id."""
        return self._desk.store.get(hold_id)

    def original(self, hold_id: str, approver: Approver, *, digest: str) -> tuple[Outcome, Any]:
        """The full parameters of an open question, for an approver who may answer it; this is recorded before they are read.

        `digest` is that of the question as the approver saw it. The outcome is `recorded`, or says why nothing is shown (and
        the parameters are None). Raises: StoreError; IntegrityError (`original_missing`, `private_damaged`).
        """
        outcome = self._desk.store.record_look(hold_id, approver, self._surface, digest=digest)
        if outcome.code != "recorded" or outcome.hold is None:
            return outcome, None
        return outcome, original_parameters(self._desk, outcome.hold)

    def answer(
        self,
        hold_id: str,
        approver: Approver,
        choice: Choice,
        *,
        digest: str | None = None,
        reason: str = "",
        patch: dict[str, Any] | None = None,
        standing: Standing | None = None,
    ) -> Outcome:
        """Give an approver's answer; see `ApprovalStore.vote`. Only a denial may omit the digest of the seen version.

        Raises: UsageError for an invalid patch or invalid terms; StoreError, and then nothing has changed.
        """
        return self._desk.store.vote(
            hold_id,
            approver,
            self._surface,
            choice,
            digest=digest or "",
            reason=reason,
            patch=patch,
            standing=standing or Standing(),
        )

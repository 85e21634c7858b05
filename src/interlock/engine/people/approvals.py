"""`runtime.approvals`: the questions of a workspace, for a program. What `interlock approvals` is at a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from interlock.engine.people.answers import Answering, Choice, Hold, Scope, Standing, Status
from interlock.engine.people.approval_desk import Desk
from interlock.engine.people.identity import Proof, identify, require
from interlock.model.errors import UsageError


class Approvals:
    """Lists and answers questions. Every method may block on the database, for as long as another process has it locked.

    Once approvers are configured, an answer needs the `token` of one: a program that runs as the user proves nothing by that.
    """

    def __init__(self, desk: Desk | None) -> None:
        """Use `runtime.approvals`."""
        self._desk = desk

    def list(self, status: Status | None = "pending", *, limit: int = 1_000) -> Sequence[Hold]:
        """Questions in the order in which they were asked; `status=None` for all. Raises: UsageError, StoreError."""
        return self._answering().holds(status, limit=limit)

    def get(self, approval: str) -> Hold:
        """A question by its id, any unambiguous beginning of it, or `last`. Raises: UsageError `not_found`, `ambiguous_id`."""
        found = self._answering().hold(self._open().store.find(approval))
        assert found is not None, "questions are never deleted"
        return found

    def approve(
        self, approval: str | Hold, *, reason: str = "", scope: Scope = "once", token: str | None = None
    ) -> Hold:
        """Let the call go on, exactly as the question showed it; see `edit` for what is given and raised.

        `scope="session"` and `"always"` are for all such calls of the agent, for eight hours and 100 uses at most.
        """
        return self._answer(approval, "approve", reason, token, standing=Standing(scope=scope))

    def deny(self, approval: str | Hold, *, reason: str = "", token: str | None = None) -> Hold:
        """Refuse the call; the agent is told the reason. One denial denies, whoever else has approved."""
        return self._answer(approval, "deny", reason, token)

    def edit(
        self, approval: str | Hold, patch: Mapping[str, Any], *, reason: str = "", token: str | None = None
    ) -> Hold:
        """Change the call's parameters (a JSON merge patch: null removes) and approve it so.

        `approval` is a question as it was seen, or an id, which stands for the question as it was first asked: if somebody has
        edited it since, only the former counts. Returns the question as it stands then, `pending` if more answers are needed.
        Raises: UsageError `not_found`, or `invalid_parameters` if the edited parameters do not fit the tool; ConflictError
        (`already_resolved`, `changed`, `separation`, `not_in_group`); AccessError `unauthenticated`; StoreError.
        """
        return self._answer(approval, "edit", reason, token, patch=dict(patch))

    def _answer(
        self,
        approval: str | Hold,
        choice: Choice,
        reason: str,
        token: str | None,
        *,
        patch: dict[str, Any] | None = None,
        standing: Standing | None = None,
    ) -> Hold:
        hold, desk = (approval if isinstance(approval, Hold) else self.get(approval)), self._open()
        digest = hold.digest if isinstance(approval, Hold) else hold.asked_digest
        approver = identify(desk, Proof(token=token))
        outcome = self._answering().answer(
            hold.id, approver, choice, digest=digest, reason=reason, patch=patch, standing=standing
        )
        answered = require(outcome, hold.id).hold
        assert answered is not None
        return answered

    def _answering(self) -> Answering:
        return Answering(self._open(), "python")

    def _open(self) -> Desk:
        if self._desk is None:
            raise UsageError(
                "this runtime keeps nothing, so it has no questions",
                code="not_available",
                hint="open a project: `Runtime.open()` without `settings=`",
            )
        return self._desk

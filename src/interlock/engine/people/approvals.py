"""`runtime.approvals`: the holds of a workspace, for a program, like `interlock approvals` at a terminal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from interlock.engine.people.answers import Answering, Choice, Hold, Scope, Standing, Status
from interlock.engine.people.approval_desk import Desk
from interlock.engine.people.asked import Asked, answer_of, checked
from interlock.engine.people.identity import Proof, identify, require
from interlock.model.errors import HeldError
from interlock.model.hold_answer import AskedKind, HoldAnswer

if TYPE_CHECKING:
    from interlock.approvals import AuditRecord, Notifier
    from interlock.approvals.audit_sinks import AuditSink


class Approvals:
    """Asks people, and lists and answers holds. Every method may block while another process has the database locked.

    Once approvers are registered, an answer needs the `token` of one: running as the user is no proof.
    """

    def __init__(self, desk: Desk, agent: str) -> None:
        """Use `runtime.approvals`."""
        self.desk = desk
        """The store, waiters and notifiers behind this."""
        self._agent = agent

    # -- asking

    async def ask(
        self,
        summary: str,
        *,
        kind: AskedKind = "other",
        reason: str = "",
        context: Any = None,
        agent: str | None = None,
        session: str | None = None,
        group: str | None = None,
        timeout_ms: int | None = None,
    ) -> HoldAnswer:
        """Ask people the program's own question, and wait for the answer, which is true only if it was approved.

        `summary` is the line that people approve, `context` any JSON value that helps to decide (shown redacted, with `reason`).
        `group` names the approvers who decide. Without an answer within `timeout_ms` (default: `approvals.ttl`) it is refused.
        Cancelling the caller withdraws the question. This call uses the approval up.

        Raises: UsageError, CanonicalError for a context that is not JSON; HeldError in a process that leaves holds open;
        StoreError.
        """
        desk = self.desk
        asked = Asked(agent or self._agent, kind, summary, reason, context, group, timeout_ms, session)
        hold = desk.store.ask(checked(desk, asked))
        desk.tell(hold)
        if not desk.waits:
            raise HeldError(f"`{hold.id}` waits for an answer", approval=hold.id, run_id="", tool="")
        answered = await desk.waiter(asyncio.get_running_loop()).wait_answered(hold.id)
        if answered.status == "approved":
            desk.store.consume(hold.id, answered.digest, "program")
        return answer_of(answered)

    def subscribe(self, notifier: Notifier | Callable[[Hold], None]) -> None:
        """Notify this one too of each hold, on a separate thread, with time limits and retries; a failure is audited.

        A notifier has a `name` and `notify(hold, timeout_s)`, which raises `interlock.NotifyError`; a plain function gets the
        hold. The hold is redacted for use outside of this machine. In an in-memory runtime, holds wait from now on.
        """
        self.desk.add_notifier(notifier)

    # -- answering

    def list(self, status: Status | None = "pending", *, limit: int = 1_000) -> Sequence[Hold]:
        """Holds in the order in which they were made; `status=None` for all. Raises: StoreError."""
        return self._answering().holds(status, limit=limit)

    def get(self, approval: str) -> Hold:
        """A hold by its id, a unique prefix of it, or `last`. Raises: UsageError `not_found`, `ambiguous_id`."""
        found = self._answering().hold(self.desk.store.find(approval))
        assert found is not None, "holds are never deleted"
        return found

    async def wait(self, approval: str, timeout_s: float) -> bool:
        """Wait until the hold has ended. Returns False if it is still pending after `timeout_s` seconds; it then stays open.

        Raises: UsageError `not_found`; StoreError.
        """
        waiter = self.desk.waiter(asyncio.get_running_loop())
        try:
            async with asyncio.timeout(timeout_s):
                await waiter.wait_answered(approval, withdraw=False)
        except TimeoutError:
            return False
        return True

    def approve(
        self, approval: str | Hold, *, reason: str = "", scope: Scope = "once", token: str | None = None
    ) -> Hold:
        """Let the call continue, exactly as the hold showed it; see `edit` for the arguments and errors.

        `scope="session"` and `"always"` cover all such calls of the agent, for at most eight hours and 100 uses.
        """
        return self._answer(approval, "approve", reason, token, standing=Standing(scope=scope))

    def deny(self, approval: str | Hold, *, reason: str = "", token: str | None = None) -> Hold:
        """Refuse the call; the agent gets the reason. One denial is final, even if others have approved."""
        return self._answer(approval, "deny", reason, token)

    def edit(
        self, approval: str | Hold, patch: Mapping[str, Any], *, reason: str = "", token: str | None = None
    ) -> Hold:
        """Change the call's parameters (a JSON merge patch: null removes) and approve the changed call.

        `approval` is the hold that was seen, or an id, which means the hold as it was first shown: if a person has
        edited it since, only the former is accepted. Returns the hold afterwards, `pending` if more answers are needed.
        Raises: UsageError `not_found`, or `invalid_parameters` if the edited parameters do not match the tool; ConflictError
        (`already_resolved`, `changed`, `separation`, `not_in_group`); AccessError `unauthenticated`; StoreError.
        """
        return self._answer(approval, "edit", reason, token, patch=dict(patch))

    def resolve(self, approval: str | Hold, approved: bool, *, reason: str = "", token: str | None = None) -> Hold:
        """Call `approve` or `deny`."""
        return (
            self.approve(approval, reason=reason, token=token)
            if approved
            else self.deny(approval, reason=reason, token=token)
        )

    # -- the audit

    def audit(self, approval: str | None = None, *, after: int = 0, limit: int = 1_000) -> Sequence[AuditRecord]:
        """The audit records of holds, approvers and grants, in order, after record number `after`; of one hold or all.

        Raises: UsageError `not_found`, `ambiguous_id`; StoreError.
        """
        subject = None if approval is None else self.desk.store.find(approval)
        return self.desk.store.audit.records(subject, after=after, limit=limit)

    def attach(self, sink: AuditSink | Callable[[AuditRecord], None]) -> None:
        """Copy every audit record to a sink, in order, from the first one that it has not received, on a separate thread.

        A sink has a `name` (under which its position is stored) and `write(record, timeout_s)`, which raises
        `interlock.NotifyError` if it cannot accept the record now; a plain function gets the record. Delivery is at least once;
        `seq` identifies a record.
        """
        self.desk.attach(sink)

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
        hold = approval if isinstance(approval, Hold) else self.get(approval)
        digest = hold.digest if isinstance(approval, Hold) else hold.asked_digest
        approver = identify(self.desk, Proof(token=token))
        outcome = self._answering().answer(
            hold.id, approver, choice, digest=digest, reason=reason, patch=patch, standing=standing
        )
        answered = require(outcome, hold.id).hold
        assert answered is not None
        return answered

    def _answering(self) -> Answering:
        return Answering(self.desk, "python")

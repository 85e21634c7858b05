"""The holds and their answers in the database: holds survive a crash, and each is decided exactly once.

A hold is stored before anyone is notified. Every change is one transaction that reads the row, decides, writes the row
and its audit record; SQLite's write lock makes it a compare-and-set across processes. A hold past its time limit reads as
expired, whether or not that has been recorded yet.
"""

# ruff: noqa: S608 -- only constants of this module are put into SQL text; every value is bound

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from interlock.approvals.audit import Audit
from interlock.approvals.hold import (
    ONCE,
    Approver,
    Choice,
    Hold,
    HoldRequest,
    Outcome,
    Standing,
    Status,
    Surface,
    Vote,
    edited_digest,
    edited_summary,
    merge_patch,
)
from interlock.approvals.holds import COLUMNS, Holds, Question, as_text
from interlock.approvals.quorum import agreed_standing, refusal, satisfied
from interlock.approvals.standing import StandingAnswers
from interlock.approvals.time import SharedTime
from interlock.disk import Database
from interlock.lazy import lazy
from interlock.model import typed
from interlock.model.canonical import canonical
from interlock.model.clock import Clock, Ids
from interlock.model.errors import IntegrityError, UsageError
from interlock.model.limits import DEFAULT_LIMITS

if TYPE_CHECKING:
    from interlock.model import schema as schemas
else:
    schemas = lazy("interlock.model.schema")

STANDING_DAYS_MAX: Final = 365
STANDING_USES_MAX: Final = 1_000_000
EXPIRE_AT_ONCE: Final = 500

Redact = Callable[[Any], Any]
"""Returns a JSON value with secrets redacted; must not change its input."""


class ApprovalStore(Holds):
    """The holds of a workspace, shared by its processes: `Holds` reads them, this class adds and answers them."""

    def __init__(
        self, database: Database, clock: Clock, ids: Ids, *, boot: str, redact: Redact, changed: Callable[[], None]
    ) -> None:
        """`changed` is called after each commit that a waiter may need to see (see `wait.WakeFile.ring`)."""
        super().__init__(database, SharedTime(database, clock, boot))
        self._ids = ids
        self._redact = redact
        self._changed = changed
        self.audit = Audit(database)
        self.standing = StandingAnswers(database, self.time, ids, self.audit)

    def ask(self, request: HoldRequest) -> Hold:
        """Store a hold, whose time limit starts now. Raises: StoreError, UsageError."""
        if request.separation and not request.started_by:
            raise UsageError("`separation` needs to know who started the run")
        own = [request.ttl_ms if r.ttl_ms is None else r.ttl_ms for r in request.requirements]
        ttl_ms = min(own, default=request.ttl_ms)
        if request.ttl_max_ms is not None:
            ttl_ms = min(ttl_ms, request.ttl_max_ms)
        question = Question(
            kind=request.kind,
            tool=request.tool,
            tool_version=request.tool_version,
            summary=self._redact(request.summary),
            reason=self._redact(request.reason),
            parameters=self._redact(request.parameters),
            context=self._redact(request.context),
            asked_digest=request.digest,
            requirements=request.requirements,
            files=request.files,
            started_by=request.started_by,
            separation=request.separation,
            changes=request.changes,
        )
        hold_id = self._ids.new("hold")
        with self.database.transaction():
            now = self.time.tick()
            self.database.execute(
                f"insert into approvals ({COLUMNS}, schema) select coalesce(max(seq), 0) + 1, ?, ?, ?, ?, ?, ?, ?,"
                " 'pending', ?, ?, null, '', null, null, ?, '[]', '[]', ? from approvals",
                (
                    hold_id,
                    request.run,
                    request.proposal,
                    request.action,
                    request.agent,
                    request.session,
                    request.digest,
                    now,
                    now + ttl_ms * 1000,
                    as_text(question),
                    None if request.schema is None else as_text(request.schema),
                ),
            )
            detail = {"agent": request.agent, "tool": request.tool, "digest": request.digest, "run": request.run}
            self.audit.write(now, "asked", hold_id, who=request.agent, detail=detail)
            hold = self.get(hold_id, now)
        assert hold is not None
        self._changed()
        return hold

    def vote(
        self,
        hold_id: str,
        approver: Approver,
        surface: Surface,
        decision: Choice,
        *,
        digest: str,
        reason: str = "",
        patch: dict[str, Any] | None = None,
        standing: Standing = ONCE,
    ) -> Outcome:
        """Answer a hold. `digest` is that of the hold as the approver saw it; a denial counts for any digest.

        One denial is final. An edit replaces the parameters (`patch` is a JSON merge patch), voids all earlier approvals and
        counts as its author's approval. A later answer of the same approver replaces an earlier one.

        Raises: StoreError, UsageError for an invalid patch or standing terms (`invalid_parameters` if the edited
        parameters do not fit the tool). Then nothing has happened, and the hold is still open.
        """
        _check(decision, patch, standing)
        with self.database.transaction():
            now = self.time.tick()
            hold = self._open(hold_id, now)
            if isinstance(hold, Outcome):
                return hold
            who, detail = approver.id, {"decision": decision, "digest": hold.digest}
            changed = decision != "deny" and digest != hold.digest
            if refused := _refuse(self.audit, hold, approver, surface, now, detail, changed=changed):
                return refused
            if standing.scope == "session" and hold.session is None:
                raise UsageError("this hold belongs to no session: answer it `once` or `always`")
            _check_terms(hold, patch, standing)
            if patch is not None:
                hold = _edited(hold, patch, self.schema_of(hold.id), self._redact)
                detail["digest"] = hold.digest
            vote = Vote(
                approver=approver.id,
                display=approver.display or approver.id,
                groups=approver.groups,
                surface=surface,
                decision=decision,
                digest=hold.digest,
                at_us=now,
                reason=self._redact(reason),
                standing=standing,
            )
            hold = msgspec.structs.replace(hold, votes=(*(v for v in hold.votes if v.approver != approver.id), vote))
            self.audit.write(now, "voted", hold_id, who=who, surface=surface, detail=detail)
            hold = self._count(hold, vote, now)
            self._save(hold)
        self._changed()
        return Outcome(code="recorded" if hold.status == "pending" else "resolved", hold=hold)

    def record_look(self, hold_id: str, approver: Approver, surface: Surface, *, digest: str) -> Outcome:
        """Record that an approver is about to see the values that a hold hides. The outcome is `recorded` if they may.

        Only those who may answer may look, only while the hold is open, and only at the version they were shown: `digest`
        is that of the hold as they saw it. Call it before anything is shown. Raises: StoreError, and then nothing may be
        shown.
        """
        with self.database.transaction():
            now = self.time.tick()
            hold = self._open(hold_id, now)
            if isinstance(hold, Outcome):
                return hold
            detail = {"decision": "original", "digest": hold.digest}
            if refused := _refuse(self.audit, hold, approver, surface, now, detail, changed=digest != hold.digest):
                return refused
            self.audit.write(
                now, "original_shown", hold_id, who=approver.id, surface=surface, detail={"digest": hold.digest}
            )
        return Outcome(code="recorded", hold=hold)

    def cancel(self, hold_id: str, reason: str, *, who: str = "") -> Outcome:
        """Withdraw a hold whose caller no longer waits. Raises: StoreError."""
        with self.database.transaction():
            now = self.time.tick()
            hold = self._open(hold_id, now)
            if isinstance(hold, Outcome):
                return hold
            hold = self._decide(hold, "cancelled", now, reason, who)
            self._save(hold)
        self._changed()
        return Outcome(code="resolved", hold=hold)

    def expire(self) -> int:
        """Record which holds have expired. They read as expired before that, too.

        Returns how many: at most `EXPIRE_AT_ONCE`, the longest overdue first, so that the write lock is held only briefly.
        """
        due = "status = 'pending' and expires_at_us <= ?"
        if not self.database.execute(f"select 1 from approvals where {due} limit 1", (self.time.now_us(),)):
            return 0
        with self.database.transaction():
            now = self.time.tick()
            rows = self.database.execute(
                f"select seq, id from approvals where {due} order by expires_at_us, seq limit {EXPIRE_AT_ONCE}", (now,)
            )
            for _, hold_id in rows:
                self.audit.write(now, "expired", hold_id)
            self.database.execute_many(
                "update approvals set status = 'expired', decided_at_us = ?, decision_reason = 'approval_expired' where seq = ?",
                [(now, seq) for seq, _ in rows],
            )
        self._changed()
        return len(rows)

    def consume(self, hold_id: str, digest: str, by: str) -> bool:
        """Use an approval for the call `by` (`run/proposal/action`) with this digest.

        The first call that asks gets it, and gets it again for retries and after a crash; no other call does. Returns False
        for another call, if it is not approved, or if the digest differs.
        """
        with self.database.transaction():
            self.database.execute(
                "update approvals set consumed_by = ? where id = ? and status = 'approved' and digest = ?"
                " and consumed_by is null",
                (by, hold_id, digest),
            )
            if self.database.changes == 1:
                self.audit.write(self.time.tick(), "consumed", hold_id, who=by, detail={"digest": digest})
                return True
            return bool(
                self.database.execute(
                    "select 1 from approvals where id = ? and status = 'approved' and digest = ? and consumed_by = ?",
                    (hold_id, digest, by),
                )
            )

    def _open(self, hold_id: str, now: int) -> Hold | Outcome:
        """A hold that can still be answered, or why there is none. Records that it has expired."""
        hold = self.get(hold_id, now)
        if hold is None:
            return Outcome(code="not_found")
        if hold.status == "expired" and hold.decided_at_us is None:
            hold = self._decide(hold, "expired", now, "approval_expired", "")
            self._save(hold)
        return hold if hold.status == "pending" else Outcome(code="already_resolved", hold=hold)

    def _count(self, hold: Hold, vote: Vote, now: int) -> Hold:
        """Decide the hold if this vote completes it."""
        if vote.decision == "deny":
            return self._decide(hold, "denied", now, vote.reason, vote.approver)
        if not satisfied(hold, hold.votes):
            return hold
        hold = self._decide(hold, "approved", now, vote.reason, vote.approver)
        terms = agreed_standing(hold, hold.votes)
        if terms.scope == "once":
            return hold
        return msgspec.structs.replace(hold, standing_id=self.standing.mint(hold, terms, now, vote.approver))

    def _decide(self, hold: Hold, status: Status, now: int, reason: str, who: str) -> Hold:
        self.audit.write(now, status, hold.id, who=who, detail={"digest": hold.digest})
        return msgspec.structs.replace(hold, status=status, decided_at_us=now, decision_reason=reason)

    def _save(self, hold: Hold) -> None:
        """Write the mutable columns, only if the row is still pending: the compare-and-set."""
        question = typed.convert(hold, Question, from_attributes=True)
        self.database.execute(
            "update approvals set digest = ?, status = ?, decided_at_us = ?, decision_reason = ?, standing_id = ?,"
            " question = ?, edits = ?, votes = ? where id = ? and status = 'pending'",
            (
                hold.digest,
                hold.status,
                hold.decided_at_us,
                hold.decision_reason,
                hold.standing_id,
                as_text(question),
                as_text(hold.edits),
                as_text(hold.votes),
                hold.id,
            ),
        )
        if self.database.changes != 1:
            raise IntegrityError(f"`{hold.id}` was resolved while this transaction held the write lock")


def _check(decision: Choice, patch: dict[str, Any] | None, standing: Standing) -> None:
    if (decision == "edit") != (patch is not None) or patch == {}:
        raise UsageError("an edit needs a patch that changes something, and no other answer takes one")
    if patch is not None and len(canonical(patch)) > DEFAULT_LIMITS.parameters_bytes:
        raise UsageError(f"the patch is longer than {DEFAULT_LIMITS.parameters_bytes} bytes")
    if standing.scope != "once" and (standing.ttl_ms <= 0 or standing.uses <= 0):
        raise UsageError("a standing answer needs a positive time to live and number of uses")
    if standing.ttl_ms > STANDING_DAYS_MAX * 86_400_000 or standing.uses > STANDING_USES_MAX:
        raise UsageError(f"a standing answer is limited to {STANDING_DAYS_MAX} days and {STANDING_USES_MAX} uses")


def _check_terms(hold: Hold, patch: dict[str, Any] | None, standing: Standing) -> None:
    """Refuse an answer that this hold cannot have. Raises: UsageError."""
    if hold.kind == "unknown_outcome":
        if standing.scope != "once":
            raise UsageError("the outcome of one call says nothing about others: answer it `once`")
        return
    if hold.tool or hold.parameters is not None:
        return  # it is about a call
    if standing.scope != "once":
        raise UsageError("this hold is not about a tool call: answer it `once`")
    if patch is not None:
        raise UsageError("this hold has no parameters to edit: approve or deny it")


def _refuse(
    audit: Audit, hold: Hold, approver: Approver, surface: Surface, now: int, detail: dict[str, Any], *, changed: bool
) -> Outcome | None:
    """Why this approver may not answer or look, which is recorded with the `detail`; None if they may.

    `changed` if the hold was changed since they saw it.
    """
    code = refusal(hold, approver) or ("changed" if changed else None)
    if code is None:
        return None
    audit.write(now, "refused", hold.id, who=approver.id, surface=surface, detail={**detail, "code": code})
    return Outcome(code=code, hold=hold)


def _edited(hold: Hold, patch: dict[str, Any], schema: Any, redact: Redact) -> Hold:
    """Returns the hold after an approver's edit. Raises: UsageError if the edit does not fit the tool."""
    parameters = merge_patch(hold.parameters, patch)
    if schema is not None:
        _check_fits(hold, parameters, schemas.Schema.compile(schema))
    shown = redact(parameters)
    return msgspec.structs.replace(
        hold,
        digest=edited_digest(hold.digest, patch),
        edits=(*hold.edits, patch),
        parameters=shown,
        changes=(),  # these belong to the call before the edit
        summary=redact(edited_summary(hold.summary, shown)),
    )


def _check_fits(hold: Hold, edited: Any, schema: schemas.Schema) -> None:
    """Refuse an edit that the gate would refuse, while the hold is still open. Raises: UsageError.

    Redacted values may not match the schema either; those errors are ignored.
    """
    known = schema.errors(hold.parameters)
    for path, message in schema.errors(edited):
        if (path, message) not in known:
            raise UsageError(
                f"the edit does not fit the tool: {message}",
                code="invalid_parameters",
                path=path,
                hint="the hold is still open: edit it again, or approve or deny it",
            )

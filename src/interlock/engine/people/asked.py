"""Questions that do not come from a rule: a program's own (`runtime.approvals.ask`), and a running tool's (`ctx.ask`)."""

from __future__ import annotations

from typing import Any, Final, NamedTuple, get_args

from interlock.approvals import Hold, HoldRequest
from interlock.engine.people.approval_desk import Desk
from interlock.model.canonical import canonical, digest
from interlock.model.decision import Requirement
from interlock.model.errors import UsageError
from interlock.model.hold_answer import AskedKind, HoldAnswer
from interlock.model.limits import DEFAULT_LIMITS

SUMMARY_CHARS_MAX: Final = 1_000
REASON_CHARS_MAX: Final = 8_000
TTL_MAX_MS: Final = 30 * 86_400_000
_ENDED: Final = {"expired": "got no answer in time", "cancelled": "was withdrawn"}


class Asked(NamedTuple):
    """A question. `context` is any JSON value that helps to decide; it is shown redacted."""

    agent: str
    kind: AskedKind
    summary: str
    reason: str = ""
    context: Any = None
    group: str | None = None
    """The group of approvers that decides; None for anyone."""
    ttl_ms: int | None = None
    """How long it waits before it is denied; None for `approvals.ttl`."""
    session: str | None = None
    run: str = ""
    proposal: str = ""
    action: str = ""


def checked(desk: Desk, asked: Asked) -> HoldRequest:
    """The checked request for the store. Raises: UsageError, CanonicalError for a context that is not JSON."""
    if asked.kind not in get_args(AskedKind):
        raise UsageError(f"`{asked.kind}` is not a kind of question", hint=f"one of {', '.join(get_args(AskedKind))}")
    if not asked.summary.strip():
        raise UsageError("a question needs a summary: a line that says what is approved")
    if len(asked.summary) > SUMMARY_CHARS_MAX or len(asked.reason) > REASON_CHARS_MAX:
        message = f"a summary has at most {SUMMARY_CHARS_MAX} characters, and a reason {REASON_CHARS_MAX}"
        raise UsageError(message, code="limit_exceeded")
    if len(canonical(asked.context)) > DEFAULT_LIMITS.parameters_bytes:
        raise UsageError(f"the context is over {DEFAULT_LIMITS.parameters_bytes} bytes", code="limit_exceeded")
    ttl_ms = desk.ttl_ms if asked.ttl_ms is None else asked.ttl_ms
    if not 0 < ttl_ms <= TTL_MAX_MS:
        raise UsageError("a question waits for more than no time and at most 30 days")
    return HoldRequest(
        agent=asked.agent,
        kind=asked.kind,
        summary=asked.summary,
        reason=asked.reason,
        context=asked.context,
        session=asked.session,
        run=asked.run,
        proposal=asked.proposal,
        action=asked.action,
        digest=digest_of(desk, asked),
        requirements=() if asked.group is None else (_requirement(asked.group),),
        ttl_ms=ttl_ms,
        ttl_max_ms=desk.ttl_max_ms,
        started_by=desk.user,
        separation=desk.separation,
    )


def digest_of(desk: Desk, asked: Asked) -> str:
    """The digest to which an approval is bound: everything that is shown, unredacted. Keyed: it may be short and secret."""
    about = [asked.agent, asked.kind, asked.summary, asked.reason, asked.context, asked.group]
    return desk.keyed(digest("question", about))


def _requirement(group: str) -> Requirement:
    return Requirement(policy="asked", content=digest("asked_group", group), group=group)


def answer_of(hold: Hold) -> HoldAnswer:
    """The answer to a question that is no longer pending."""
    assert hold.status != "pending"
    last = hold.votes[-1] if hold.votes and hold.status in ("approved", "denied") else None
    return HoldAnswer(
        approval=hold.id,
        status=hold.status,
        reason=_ENDED.get(hold.status, hold.decision_reason),
        approver=None if last is None else last.approver,
    )

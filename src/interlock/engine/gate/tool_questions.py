"""Questions that a tool asks while it runs: `ctx.ask`, within step 9.

While the tool waits for people, its time-out is paused, shared resources are released (its worker, the budget's lease, the turn
to write in the workspace), and the time counts as waited. Afterwards the tool gets its turn back, and the gate judges again: if
the call was forbidden or its grant revoked meanwhile, the call ends.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Iterator
from typing import Any, Unpack, get_args

from interlock.approvals import Hold
from interlock.engine.gate.admission import take_turn, waiting
from interlock.engine.judges.steps import judge_call
from interlock.engine.judges.verdict import Ask
from interlock.engine.people.approval_desk import Desk
from interlock.engine.people.asked import Asked, answer_of, checked, digest_of
from interlock.engine.proposals.action_run import ActionRun
from interlock.engine.proposals.tool_context import ActionContext
from interlock.engine.proposals.waiting import tell_waiting
from interlock.engine.proposals.watchdog import NEVER
from interlock.model.decision import Refusal
from interlock.model.errors import ToolError, UsageError
from interlock.model.events import ToolAnswered, ToolAsked
from interlock.model.hold_answer import AskOptions, HoldAnswer, ToolAskedKind


class AskingContext(ActionContext, eq=False, kw_only=True):
    """The context of an attempt in the plan, whose tool may ask people."""

    action: ActionRun
    one_at_a_time: asyncio.Lock | None = None
    from_thread: concurrent.futures.Future[HoldAnswer] | None = None

    async def ask(
        self, summary: str, reason: str = "", context: Any = None, **options: Unpack[AskOptions]
    ) -> HoldAnswer:
        """See `interlock.Context`."""
        run, action = self.run, self.action
        asked = _question_of(self, summary, reason, context, **options)
        _require_somebody(self)
        if self.one_at_a_time is None:
            self.one_at_a_time = asyncio.Lock()
        async with self.one_at_a_time:
            desk = run.services.desk
            hold = _existing(desk, asked) or desk.store.ask(checked(desk, asked))
            with _time_out_stopped(self):
                hold = await _wait_answered(action, hold)
                await _judge_again(action)
            answer = answer_of(hold)
            if answer and not desk.store.consume(hold.id, hold.digest, _by(asked)):
                return HoldAnswer(approval=hold.id, status="cancelled", reason="it was used by another call")
            return answer

    def ask_sync(
        self, summary: str, reason: str = "", context: Any = None, **options: Unpack[AskOptions]
    ) -> HoldAnswer:
        """See `interlock.Context`."""
        if threading.get_ident() == self.run.thread:
            raise UsageError(
                "`ctx.ask_sync` is for tools on a thread: here it would block the event loop",
                code="loop_running",
                hint="make the tool async and `await ctx.ask(...)`",
            )
        work = self.ask(summary, reason, context, **options)
        self.from_thread = future = asyncio.run_coroutine_threadsafe(work, self.run.loop)
        if self.cancelled:  # cancelled just now: nothing else would withdraw it
            future.cancel()
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise ToolError(
                "the call was stopped while it waited for an answer", code="cancelled", retryable=False
            ) from None

    def withdraw(self) -> None:
        """Withdraw the open questions of a stopped call: a thread that waits for an answer continues without one."""
        if self.from_thread is not None:
            self.from_thread.cancel()


def _question_of(
    attempt: AskingContext,
    summary: str,
    reason: str,
    context: Any,
    *,
    kind: ToolAskedKind = "other",
    group: str | None = None,
    timeout_ms: int | None = None,
) -> Asked:
    if kind not in get_args(ToolAskedKind):
        raise UsageError(f"a tool cannot ask about `{kind}`", hint=f"one of {', '.join(get_args(ToolAskedKind))}")
    return Asked(
        attempt.agent, kind, summary, reason, context, group, timeout_ms,
        session=attempt.session, run=attempt.run_id, proposal=attempt.proposal_id, action=attempt.action_id,
    )  # fmt: skip


def _require_somebody(attempt: AskingContext) -> None:
    """Raises: ToolError `approval_required` if the call cannot wait for an answer."""
    run = attempt.run
    desk = run.services.desk
    if run.dry_run:
        problem = "no question can be asked in a dry run"
    elif desk.cannot_ask:
        problem = desk.cannot_ask
    elif not desk.waits:
        problem = "a tool's question cannot be left open, because the call would have to be made again"
    else:
        return
    raise ToolError(f"the tool wants to ask first, and {problem}", code="approval_required", retryable=False)


def _by(asked: Asked) -> str:
    return f"{asked.run}/{asked.proposal}/{asked.action}"


def _existing(desk: Desk, asked: Asked) -> Hold | None:
    """The same question of an earlier attempt, if it is open, or approved and unused: a retry does not ask twice."""
    hold = desk.store.for_action(asked.run, asked.proposal, asked.action, kind=asked.kind)
    if hold is None or hold.asked_digest != digest_of(desk, asked) or hold.status not in ("pending", "approved"):
        return None
    return hold if hold.consumed_by is None else None


@contextlib.contextmanager
def _time_out_stopped(attempt: AskingContext) -> Iterator[None]:
    """The block is not execution time: the attempt's deadline moves by its duration."""
    slot, clock = attempt.action.slot, attempt.run.clock
    before_ns, left_ns = clock.mono_ns(), attempt.deadline_ns - clock.mono_ns()
    slot.deadline = NEVER
    try:
        yield
    finally:
        now_ns = clock.mono_ns()
        attempt.paused_ns += now_ns - before_ns
        attempt.deadline_ns = slot.deadline = now_ns + left_ns
        if slot.deadline < slot.watchdog.at:
            slot.watchdog.wake(slot.deadline)


async def _wait_answered(action: ActionRun, hold: Hold) -> Hold:
    run = action.run
    desk = run.services.desk
    run.record(9, action.index, lambda recorder: ToolAsked(approval=hold.id, summary=recorder.text(hold.summary)))
    run.flush()
    if hold.status == "pending":
        desk.tell(hold)
        left_ms = max(0, hold.expires_at_us - desk.store.time.now_us()) / 1000
        tell_waiting(run, action.index, "approval", f"an answer to `{hold.id}`", left_ms, step=9)
        run.allowance.release()
        with waiting(action):
            hold = await action.slot.pool.wait_outside(desk.waiter(run.loop).wait_answered(hold.id))
    approver = answer_of(hold).approver
    run.record(9, action.index, lambda _: ToolAnswered(approval=hold.id, decision=hold.status, approver=approver))
    return hold


async def _judge_again(action: ActionRun) -> None:
    """Take the turn to write again, and judge the call again. Raises: ToolError with the reason of a refusal."""
    action.run.services.refresh()
    judges = action.run.judges_in_force()
    judged = judge_call(judges, action.call())
    verdict = judged.verdict
    if isinstance(verdict, Ask):
        verdict = Refusal("approval_required", "the rules have changed, and say to ask about the whole call now")
    refusal = verdict if isinstance(verdict, Refusal) else await take_turn(action)
    if refusal is not None:
        raise ToolError(
            f"while the tool asked: {refusal.detail}", code=refusal.reason, retryable=False, path=refusal.path
        )

"""A call outside the scheduler: a compensation, a probe. It goes through steps 2 to 5 and has its own time-out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Final, cast

from interlock.engine.gate.entailed import judge_entailed
from interlock.engine.gate.judgement import judge_call
from interlock.engine.gate.verdict import Ask
from interlock.engine.judges.judges import Call
from interlock.engine.proposals.proposal_run import ProposalRun as Execution
from interlock.engine.proposals.tool_context import ActionContext
from interlock.engine.tools.registry import Registered
from interlock.model.decision import Refusal
from interlock.model.errors import StoreError, ToolError
from interlock.model.exceptions import describe, describe_exit, text_of
from interlock.model.grant import Principal
from interlock.model.proposal import Action
from interlock.model.units import as_duration

COMPENSATING: Final = -1
"""The number of the attempt under which a compensation changes files."""

_LAST_LINES: Final = 3
_SAID_CHARS_MAX: Final = 500

IN_USE: Final = "what depended on it could not be taken back, so its compensation did not run"


class Answer:
    """What a call gave: an output, or a problem."""

    __slots__ = ("code", "output", "problem")

    def __init__(self, output: Any = None, problem: str | None = None, code: str | None = None) -> None:
        """One of the first two; `code` is that of the tool's own error."""
        self.output = output
        self.problem = problem
        self.code = code

    @property
    def reason(self) -> str:
        """Why a compensation did not take its action back: a code for `not_undone`."""
        return self.code if self.code == "undo_conflict" else "compensation_failed"


async def ask_tool(
    x: Execution, index: int, name: str, parameters: dict[str, Any], as_agent: str | None = None
) -> Answer:
    """Call a tool for the action at `index`, as the proposal's agent or as another one.

    Raises StoreError only: everything else is the answer's problem.
    """
    tool = x.services.registry.find(name)
    if tool is None:
        return Answer(problem=f"there is no tool `{name}`")
    action = Action(type="tool_call", id=x.proposal.actions[index].id, tool=name, parameters=parameters)
    who = x.who if as_agent is None else x.services.judges.current().principal(as_agent, x.who.session)
    call = Call(who, x.proposal, action, tool, parameters, x.buffer)
    verdict = judge_entailed(x, index, call, judge_call(x.services.judges.current(), call)).verdict
    if isinstance(verdict, Refusal):
        return Answer(problem=f"`{name}` was refused: {verdict.reason}: {verdict.detail}")
    if isinstance(verdict, Ask):
        return Answer(problem=f"`{name}` needs an approval of its own")
    if (problem := _forbidden(x, call, tool)) or (problem := await _admitted(x, who, tool, parameters)):
        return Answer(problem=problem)
    ctx = ActionContext(x, index, COMPENSATING, x.clock.mono_ns() + tool.timeout_ns, (tool, who.agent))
    try:
        output = await _call(x, tool, parameters, ctx)
    except (StoreError, asyncio.CancelledError, KeyboardInterrupt, GeneratorExit):
        ctx.cancelled = True
        raise
    except ToolError as error:
        return Answer(problem=f"`{name}` failed: {_reason(error)}", code=error.code)
    except TimeoutError:
        ctx.cancelled = True  # a thread cannot be stopped, but told
        return Answer(problem=f"`{name}` ran longer than its time-out of {as_duration(tool.timeout_ns // 1_000_000)}")
    except SystemExit as error:
        return Answer(problem=f"`{name}` failed: {describe_exit(error)}")
    except BaseException as error:  # noqa: BLE001 - whatever a tool raises is its failure
        return Answer(problem=f"`{name}` failed: {describe(error)}")
    if isinstance(output, ToolError):
        return Answer(problem=f"`{name}` failed: {_reason(output)}", code=output.code)
    return Answer(output=output)


def _reason(error: ToolError) -> str:
    """What the tool says, with the last words of a process that it ran: these mostly say why."""
    output = error.output if isinstance(error.output, dict) else {}
    words = output.get("stderr")
    if not isinstance(words, str) or output.get("stderr_encoding", "utf-8") != "utf-8":
        return text_of(error)
    lines = [line.strip() for line in words.splitlines() if line.strip()][-_LAST_LINES:]
    said = " / ".join(lines)[-_SAID_CHARS_MAX:]
    return f"{text_of(error)}: {said}" if said else text_of(error)


async def _call(x: Execution, tool: Registered, parameters: dict[str, Any], ctx: ActionContext) -> Any:
    """Call it, within its time-out. Raises what it raises; CancelledError only if the caller was cancelled."""
    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    try:
        async with asyncio.timeout(tool.timeout_ns / 1e9) as limit:
            if tool.mode == "thread":
                output = await x.services.threads.run(asyncio.get_running_loop(), tool.function, parameters, ctx)
            elif tool.mode == "inline":
                output = tool.function(parameters, ctx)
            else:
                output = await cast("Awaitable[Any]", tool.function(parameters, ctx))
    except asyncio.CancelledError:
        if task.cancelling() > before:
            raise
        raise ToolError("something that it waited for was cancelled") from None
    if limit.expired():  # it caught its cancellation and went on
        raise TimeoutError
    return output


def _forbidden(x: Execution, call: Call, tool: Registered) -> str | None:
    """Why a policy about `Action::"compensate"` stands against the call. None of them has to permit it."""
    judges = x.services.judges.current()
    decision = judges.policies.decide(judges.request(call, action="compensate"))
    # Denied only because nothing permits it: that is no policy against it. What could not be evaluated is.
    unspoken = decision.decision == "deny" and decision.reason == "policy_denied" and not decision.policies
    if decision.decision == "allow" or (unspoken and not decision.errors):
        return None
    return f"`{tool.name}` was refused as a compensation: {decision.detail or 'it needs an approval of its own'}"


async def _admitted(x: Execution, who: Principal, tool: Registered, parameters: dict[str, Any]) -> str | None:
    """Step 7 for what is no action of the plan: uses of grants and the rate limit hold; why not, or None.

    Budgets count it and do not stop it: what was done must be taken back even when all is spent.
    """
    desk, judges = x.services.desk, x.services.judges.current()
    choices = judges.uses(who, tool, parameters) if desk is not None and judges.issued else ()
    if choices and desk is not None and not any(not ids or desk.issued.use(ids) for ids in choices):
        return f"`{tool.name}` was refused: grant_used_up: the grants that allow it have no uses left"
    if tool.bucket is not None:
        wait_ns = tool.bucket.acquire(x.clock.mono_ns(), tool.timeout_ns)
        if wait_ns is None:
            return f"`{tool.name}` was refused: rate_limited: its rate limit leaves no place within its time-out"
        await asyncio.sleep(wait_ns / 1e9)
    x.allowance.reserve(tool_calls=1)
    return None

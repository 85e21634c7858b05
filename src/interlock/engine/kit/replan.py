"""Proposes again after a failure: a planner gets the failure as data, and what it makes of it is a whole new proposal and run."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal

import msgspec

from interlock.engine.kit import calls
from interlock.engine.people.approvals import Approvals
from interlock.engine.proposals.decoding import ProposalLike, decode
from interlock.engine.services import Services
from interlock.model.errors import UsageError
from interlock.model.proposal import Proposal
from interlock.model.result import ProposalResult

Replan = Literal["off", "ask", "auto"]
REPLANS_MAX: Final = 10


class PlanFailure(msgspec.Struct, frozen=True, kw_only=True):
    """What a planner gets: a proposal that failed, with its result. Everything in it is data."""

    proposal: Proposal
    result: ProposalResult
    attempt: int
    """1 after the first proposal, 2 after the first that the planner made."""


Planner = Callable[[PlanFailure], ProposalLike | Awaitable[ProposalLike | None] | None] | Literal["infer"]
"""Gives the next proposal; None if there is none. A plain function is called on a thread. `infer` asks the model of that tool."""
_ACTION: Final = {
    "type": "object",
    "properties": {
        "id": {"type": "string"}, "tool": {"type": "string"}, "parameters": {"type": "object"},
        "dependencies": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["id", "tool", "parameters"],
    "additionalProperties": False,
}  # fmt: skip
_SCHEMA: Final = {
    "type": "object",
    "properties": {"actions": {"type": "array", "items": _ACTION}},
    "required": ["actions"],
    "additionalProperties": False,
}
_PROMPT: Final = (
    "A proposal of actions failed, and was rolled back. Propose actions that do the same and do not fail in the same way; "
    "`$ID.output` in a parameter stands for the output of another action. Propose no actions if that is not possible."
)
Take = Callable[[Proposal], Awaitable[ProposalResult]]


async def replan(
    services: Services, first: Proposal, take: Take, *, planner: Planner, how: Replan, most: int
) -> ProposalResult:
    """Take a proposal, and as long as one fails (and is not refused, held or cancelled) the one that the planner makes of it.

    Each is of the same agent and session, and is judged like any other. With `how="ask"` a person reads it first. The result is
    that of the last one; its `replaced` are the runs before it. Raises: UsageError for another agent; ProposalError; as `take`.
    """
    if not 1 <= most <= REPLANS_MAX:
        raise UsageError(f"`replans_max` is between 1 and {REPLANS_MAX}")
    proposal, result = first, await take(first)
    replaced: list[str] = []
    while result.status == "failed" and len(replaced) < most:
        found = await _ask_planner(
            services, planner, PlanFailure(proposal=proposal, result=result, attempt=len(replaced) + 1)
        )
        if found is None:
            break
        proposal = _same_agent(decode(found, services.bounds.limits), first, result.run_id)
        if how == "ask" and not await _is_approved(services, proposal, result):
            break
        replaced.append(result.run_id)
        result = await take(proposal)
    result.replaced = replaced
    return result


async def _ask_planner(services: Services, planner: Planner, failure: PlanFailure) -> ProposalLike | None:
    found: Any
    if planner == "infer":
        return await _ask_model(services, failure)
    if inspect.iscoroutinefunction(planner):
        found = planner(failure)
    else:
        found = await services.threads.run(asyncio.get_running_loop(), planner, failure)
    proposed: ProposalLike | None = await found if inspect.isawaitable(found) else found
    return proposed


async def _ask_model(services: Services, failure: PlanFailure) -> ProposalLike | None:
    """What a model proposes, by a call of `infer` of the same agent, judged like any other. It is shown nothing secret."""
    first = failure.proposal
    tools = {name: services.registry.by_name.get(name) for name in sorted({a.tool for a in first.actions if a.tool})}
    said = {
        "actions": [{"id": a.id, "tool": a.tool or a.type, "parameters": a.parameters} for a in first.actions],
        "results": [
            {"id": r.action_id, "status": r.status, "reason": r.reason, "error": r.error, "output": r.output}
            for r in failure.result.results
        ],
        "tools": {name: tool.parameters for name, tool in tools.items() if tool is not None},
    }
    context = msgspec.json.encode(services.redactor.redact(msgspec.to_builtins(said))).decode()
    caller = calls.Caller(first.agent or services.agent, first.session)
    parameters = {"prompt": _PROMPT, "context": context, "schema": _SCHEMA}
    result = await calls.call(services, "infer", parameters, caller, call_id=None)
    if not result.ok:
        services.hooks.notify(
            f"no other proposal was made: `infer`: {result.reason}: {result.error or ''}".rstrip(": ")
        )
        return None
    actions = result.output["value"]["actions"]
    return {"source": "infer", "actions": [{"type": "tool_call", **one} for one in actions]} if actions else None


def _same_agent(proposal: Proposal, first: Proposal, failed_run: str) -> Proposal:
    """The proposal of the same agent and session, with the run that it replaces in its context. Raises: UsageError."""
    for field in ("agent", "session"):
        given = getattr(proposal, field)
        if given is not None and given != getattr(first, field):
            raise UsageError(f"the planner proposed for another {field}: `{given}`", path=f"$.{field}")
    context = {**proposal.context, "replaces": failed_run}
    return msgspec.structs.replace(proposal, agent=first.agent, session=first.session, context=context, id="")


async def _is_approved(services: Services, proposal: Proposal, failed: ProposalResult) -> bool:
    cause = next((row for row in failed.results if row.status in ("failed", "unknown_outcome")), failed.results[0])
    answer = await Approvals(services.desk, services.agent).ask(
        f"carry out another proposal of {len(proposal.actions)} actions, because `{cause.action_id}` failed ({cause.reason})",
        kind="other", reason=cause.error or "", context={"run": failed.run_id, "proposal": msgspec.to_builtins(proposal)},
        agent=proposal.agent, session=proposal.session,
    )  # fmt: skip
    return bool(answer)

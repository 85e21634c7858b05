"""Proposes again after a failure: a planner gets the failure as data, and what it makes of it is a whole new proposal and run."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal

import msgspec

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


Planner = Callable[[PlanFailure], ProposalLike | Awaitable[ProposalLike | None] | None]
"""Gives the next proposal; None if there is none. A plain function is called on a thread."""
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
    if inspect.iscoroutinefunction(planner):
        found = planner(failure)
    else:
        found = await services.threads.run(asyncio.get_running_loop(), planner, failure)
    proposed: ProposalLike | None = await found if inspect.isawaitable(found) else found
    return proposed


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

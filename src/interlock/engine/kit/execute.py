"""Implements `Runtime.execute`, `call` and `execute_tool_calls`, including grant tokens that are presented with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from types import NoneType
from typing import TYPE_CHECKING, Any

from interlock.engine.kit.shared_runs import SharedRuns
from interlock.engine.people.questions import OnQuestion
from interlock.engine.proposals.decoding import ProposalLike, decode
from interlock.engine.runs.run import Run
from interlock.engine.services import Services
from interlock.lazy import lazy
from interlock.model import typed
from interlock.model.errors import UsageError
from interlock.model.grant import OPERATOR
from interlock.model.proposal import Proposal
from interlock.model.result import CallResult, ProposalResult
from interlock.model.tool import ClientExecutor, ToolExecutor

if TYPE_CHECKING:
    from interlock.capability.tokens import GrantToken
    from interlock.engine.kit import calls
    from interlock.engine.kit import replan as replanning
    from interlock.engine.kit.replan import Planner, Replan
    from interlock.engine.people import grant_tokens
else:
    grant_tokens = lazy("interlock.engine.people.grant_tokens")
    calls = lazy("interlock.engine.kit.calls")
    replanning = lazy("interlock.engine.kit.replan")

Asks = Callable[[bool, OnQuestion | None], AbstractAsyncContextManager[None]]
"""Returns the context that handles questions, from `wait` and `on_question`."""


async def execute(
    services: Services,
    asks: Asks,
    proposal: ProposalLike,
    *,
    dry_run: bool = False,
    executor: ToolExecutor | None = None,
    session: str | None = None,
    wait: bool = True,
    on_question: OnQuestion | None = None,
    grant_token: str | None = None,
    planner: Planner | None = None,
    replan: Replan = "off",
    replans_max: int = 2,
) -> ProposalResult:
    """See `Runtime.execute`."""
    first = decode(proposal, services.bounds.limits)

    async def take(one: Proposal) -> ProposalResult:
        return await _take(services, one, dry_run=dry_run, executor=executor, session=session, grant_token=grant_token)

    if (planner is None) != (replan == "off"):
        raise UsageError('`planner` needs `replan="ask"` or `"auto"`, and these need a `planner`')
    if planner is not None and (dry_run or (replan == "ask" and not wait)):
        raise UsageError("a dry run is not replanned, and nobody is asked about a new proposal with `wait=False`")
    async with asks(wait, on_question):
        if planner is None or replan == "off":
            return await take(first)
        return await replanning.replan(services, first, take, planner=planner, how=replan, most=replans_max)


async def _take(
    services: Services, decoded: Proposal, *, dry_run: bool, executor: ToolExecutor | None, session: str | None,
    grant_token: str | None,
) -> ProposalResult:  # fmt: skip
    token = present(services, grant_token, decoded.agent)
    # `operator` is refused in `Run.take`: a run with that name would count as the person's.
    agent = token.root.agent if token is not None else None if decoded.agent == OPERATOR else decoded.agent
    run = Run.start(services, agent=agent, session=session or decoded.session, source=decoded.source)
    try:
        return await run.take(decoded, dry_run=dry_run, executor=executor, token=token, only=True, refreshed=True)
    finally:
        run.finish()


def present(services: Services, grant_token: str | None, agent: str | None) -> GrantToken | None:
    """Check the grant token that was presented; None without one. Raises: UsageError."""
    if grant_token is None:
        return None
    return grant_tokens.present_token(services.desk, services.signer, services.workspace_id, grant_token, agent=agent)


async def call_tool(
    services: Services,
    asks: Asks,
    tool: str,
    parameters: Mapping[str, Any] | None,
    *,
    call_id: str | None = None,
    resume_held: bool = False,
    client: ClientExecutor | None = None,
    agent: str | None = None,
    session: str | None = None,
    wait: bool = True,
    on_question: OnQuestion | None = None,
    grant_token: str | None = None,
    shared: SharedRuns,
) -> CallResult:
    """See `Runtime.call`."""
    typed.require(tool, str, "tool")
    typed.require(
        parameters,
        (Mapping, NoneType),
        "parameters",
        hint='a mapping of their names to values, such as {"path": "a.txt"}',
    )
    async with asks(wait, on_question):
        caller = _caller(services, agent, session, grant_token)
        return await calls.call(
            services, tool, parameters or {}, caller, call_id=call_id, resume_held=resume_held, client=client,
            shared=shared,
        )  # fmt: skip


async def call_tools(
    services: Services,
    asks: Asks,
    message: Any,
    *,
    once: bool = True,
    agent: str | None = None,
    session: str | None = None,
    wait: bool = True,
    on_question: OnQuestion | None = None,
    grant_token: str | None = None,
) -> list[dict[str, Any]]:
    """See `Runtime.execute_tool_calls`."""
    async with asks(wait, on_question):
        caller = _caller(services, agent, session, grant_token)
        return await calls.execute_tool_calls(services, message, caller, once=once)


def _caller(services: Services, agent: str | None, session: str | None, grant_token: str | None) -> calls.Caller:
    token = present(services, grant_token, agent)
    if token is None:
        return calls.Caller(agent or services.agent, session)
    return calls.Caller(token.root.agent, session, token)

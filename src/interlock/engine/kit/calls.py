"""Carries out calls of tools, each in its own run, and once per call id.

A call with an id is claimed before its run starts, and its outcome is kept: the same message again returns the same results, and
continues held calls. A rejected call did nothing, so it may be made again, except after a person's denial.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from interlock.capability.tokens import GrantToken
from interlock.engine.kit.call_result import call_result
from interlock.engine.kit.messages import CallText, ToolCall, read_message, result_messages
from interlock.engine.kit.names import safe_names, shown_to_models
from interlock.engine.kit.shared_runs import SharedRuns
from interlock.engine.kit.toolset import reachable
from interlock.engine.proposals.decoding import decode
from interlock.engine.record.replay import ReplayedRun
from interlock.engine.runs.resume import resume
from interlock.engine.runs.run import Run
from interlock.engine.services import Services
from interlock.journal.stops import StopRequest
from interlock.model import typed
from interlock.model.canonical import digest
from interlock.model.errors import ConflictError, HeldError, ProposalError, StoreError, UsageError
from interlock.model.grant import OPERATOR
from interlock.model.proposal import CLIENT_SOURCE, Proposal
from interlock.model.result import CallResult, ProposalResult
from interlock.model.tool import ClientExecutor
from interlock.model.values import nearest_name
from interlock.verify.references import References

T = TypeVar("T")

_LOOK_AGAIN_S: Final = 0.05
"""Poll interval: a run that was cancelled before it started is stopped as soon as it exists."""
_ELSEWHERE_S: Final = 30.0
"""How long another process may take for a held call that it continues, before the call is a new one."""
_ACTION: Final = "call"
_PART: Final = "/"
"""Between run and proposal, in the claim of a call that is held in a shared run."""
_BY_A_PERSON: Final = ("approval_denied", "approval_expired")
_OPEN: Final = ("held", "unknown_outcome", "cancelled")
_NAME_CHARS_SHOWN: Final = 80
_TOOLS_SHOWN: Final = 30


class Caller(NamedTuple):
    """The agent on whose behalf calls are made."""

    agent: str
    session: str | None
    token: GrantToken | None = None
    """The grant token that was presented, if there was one; `agent` is then its agent."""


async def call(
    services: Services,
    tool: str,
    parameters: Mapping[str, Any],
    caller: Caller,
    *,
    call_id: str | None,
    resume_held: bool = False,
    client: ClientExecutor | None = None,
    shared: SharedRuns | None = None,
) -> CallResult:
    """One call; see `Runtime.call`. With `resume_held` it may be one of several in a run of `shared`."""
    if call_id or client is not None or caller.token is not None or not resume_held:
        shared = None
    if shared is not None and not shared.suits(tool, caller.agent, caller.session):
        shared = None
    name = _ACTION if shared is None else f"{_ACTION}_{shared.next_number()}"
    plain = References((name,)).escape(dict(parameters))  # text of a model that looks like a reference stays text
    action: dict[str, Any] = {"type": "tool_call", "id": name, "tool": tool, "parameters": plain}
    definition = services.registry.by_name.get(tool)
    if caller.session is not None and definition is not None and "session" in definition.invocation_modes:
        action["invocation_mode"] = (
            "session"  # the run ends with this call, and later calls use the programs that it starts
        )
    source = "call"
    if client is not None:
        source = CLIENT_SOURCE + client.client
        action["failure_behavior"] = "skip"  # the client does not expect a rollback of what its own tools did
    document = {"source": source, "agent": caller.agent, "actions": [action]}
    one = _Call(services, caller, decode(document, services.bounds.limits), client)
    # A result for the agent itself, or for another token, is not reused for this one.
    token = [] if caller.token is None else [caller.token.id]
    if call_id:
        about = [services.workspace_id, caller.agent, caller.session, call_id, tool, parameters, *token]
        return await _once(one, tool, services.redactor.keyed(digest("tool_call", about)))
    if resume_held:
        # Not the session: a restarted client continues its held calls.
        about = [services.workspace_id, caller.agent, tool, parameters, *token, *([] if client is None else [source])]
        return await _held_or_new(one, tool, services.redactor.keyed(digest("held_call", about)), shared)
    return call_result(tool, await one.run(services.ids.new("run")))


async def execute_tool_calls(services: Services, message: Any, caller: Caller, *, once: bool) -> list[dict[str, Any]]:
    """The calls of a message, in order; see `Runtime.execute_tool_calls`."""
    shape, calls = read_message(message)
    names = safe_names(shown_to_models(services.registry.by_name))
    own = {safe: name for name, safe in names.items()}
    done: list[CallText] = []
    seen: set[str] = set()
    for each in calls:
        if each.id and each.id in seen:
            done.append(CallText(each, f"[REJECTED] this message has another call with the id `{each.id}`", True))
            continue
        seen.add(each.id)
        try:
            done.append(await _carry_out(services, each, own, caller, once=once))
        except HeldError as held:
            held.messages = result_messages(shape, done)
            raise
    return result_messages(shape, done)


async def _carry_out(
    services: Services, one: ToolCall, own: Mapping[str, str], caller: Caller, *, once: bool
) -> CallText:
    """Carry out a call of a message. The model's mistakes are reported to the model. Raises: HeldError, and as `call`."""
    if one.problem is not None:
        return CallText(one, f"[REJECTED] {one.problem}. Nothing was done.", is_error=True)
    try:
        result = await call(
            services, own.get(one.name, one.name), one.parameters, caller, call_id=one.id if once else None
        )
    except ProposalError as error:
        path = error.path or ""
        if path.endswith(".tool"):  # not a valid name of a tool: empty, or much too long
            return CallText(one, _unknown(services, one.name, own, caller), is_error=True)
        where = path.replace("$.actions[0].parameters", "$") + ": " if path else ""
        return CallText(one, f"[REJECTED] {where}{error.message}. Nothing was done.", is_error=True)
    if result.reason == "unknown_tool":
        return CallText(one, _unknown(services, one.name, own, caller), is_error=True)
    return CallText(one, result.for_model(), is_error=not result.ok)


def _unknown(services: Services, name: str, own: Mapping[str, str], caller: Caller) -> str:
    """The text for a model that called a tool which does not exist: the tools that it has, and the closest name."""
    token = None if caller.token is None else caller.token.id
    reached = {found.name for found in reachable(services, caller.agent, caller.session, token)}
    known = sorted(safe for safe, tool in own.items() if tool in reached)
    shown = name[:_NAME_CHARS_SHOWN]
    near = nearest_name(shown, known)
    meant = f" (did you mean `{near}`?)" if near else ""
    more = f" and {len(known) - _TOOLS_SHOWN} more" if len(known) > _TOOLS_SHOWN else ""
    there = ", ".join(f"`{each}`" for each in known[:_TOOLS_SHOWN]) + more
    return f"[REJECTED] unknown_tool: there is no tool `{shown}`{meant}. The tools are: {there or 'none'}. Nothing was done."


class _Call(NamedTuple):
    """A decoded call and its context."""

    services: Services
    caller: Caller
    proposal: Proposal
    client: ClientExecutor | None = None

    async def run(self, run_id: str) -> ProposalResult:
        """Make the call, in a new run."""
        # As in `Runtime.execute`: a run with the operator's name would count as the person's.
        agent = None if self.caller.agent == OPERATOR else self.caller.agent
        run = Run.start(
            self.services, agent=agent, session=self.caller.session, run_id=run_id, source=self.proposal.source
        )
        try:
            return await run.take(self.proposal, client=self.client, token=self.caller.token, only=True, refreshed=True)
        finally:
            run.finish()

    async def go_on(self, claimed: str) -> ProposalResult | None:
        """Continue a call that was started earlier. None if the call did not start. Raises: ConflictError `call_unfinished`."""
        services = self.services
        run_id, _, own = claimed.partition(_PART)
        if services.state_dir is None or services.durability == "off":
            raise ConflictError(
                "a call with this id was begun, and no journal has its outcome",
                code="call_unfinished",
                hint="wait for it if it still runs; else make the call with another id",
            )
        directory = services.state_dir / "runs" / run_id
        if not directory.exists():  # the process ended between the claim and the run
            return await self.run(run_id)
        try:
            results = await resume(services, run_id, client=self.client)
        except UsageError as error:
            if error.code != "run_finished":
                raise
            replayed = ReplayedRun(directory)
            results = [replayed.result(proposal) for proposal in replayed.proposals]
        except StoreError as error:
            if error.code != "run_locked":
                raise
            raise ConflictError(
                f"a call with this id is under way in run `{run_id}`", code="call_unfinished", hint="wait for its end"
            ) from error
        return next((found for found in results if own in ("", found.proposal_id)), None)


async def _once(one: _Call, tool: str, key: str) -> CallResult:
    """Make the call unless it was made; continue it if it was started."""
    store, run_id = one.services.calls, one.services.ids.new("run")
    claim = store.claim(key, run_id)
    if claim is not None and claim.outcome is not None:
        known = typed.decode(claim.outcome, CallResult)
        return msgspec.structs.replace(known, deduplicated_from=f"{known.run_id}/{known.action_id}")
    try:
        found = await (one.run(run_id) if claim is None else one.go_on(claim.run))
    except ProposalError:
        store.forget(key, run_id if claim is None else claim.run)
        raise
    if found is None:
        store.forget(key, run_id if claim is None else claim.run)
        return await _once(one, tool, key)
    result = call_result(tool, found)
    if result.status in ("rejected", "skipped") and result.reason not in _BY_A_PERSON:
        store.forget(key, result.run_id)
    elif result.status not in _OPEN:
        store.finish(key, result.run_id, msgspec.json.encode(result).decode())
    return result


async def _held_or_new(one: _Call, tool: str, key: str, shared: SharedRuns | None) -> CallResult:
    """Continue the same call if it is held; otherwise make a new one, and remember it if it is held."""
    store, loop = one.services.calls, asyncio.get_running_loop()
    until = loop.time() + _ELSEWHERE_S
    while (claim := store.find(key)) is not None:
        try:
            found = await _stopped_with_caller(one.go_on(claim.run), partial(_stop_run, one, _run_of(claim.run)))
        except ConflictError:
            # In this process: the same call was made twice at once, and the other one continues the held call. In another:
            # `interlock serve` may be carrying it out after its approval, for whoever calls again.
            own = any(run.id == _run_of(claim.run) for run in one.services.hooks.runs)
            if own or loop.time() >= until:
                break
            await asyncio.sleep(_LOOK_AGAIN_S)
            continue
        if found is None:
            store.forget(key, claim.run)
            break
        result = call_result(tool, found)  # raises if it is still held: the claim remains
        store.forget(key, claim.run)
        return result
    if shared is None:
        run_id = one.services.ids.new("run")
        found = await _stopped_with_caller(one.run(run_id), partial(_stop_run, one, run_id))
    else:
        call = shared.enter(one.proposal, one.caller.agent, one.caller.session)
        found = await _stopped_with_caller(call.run(), lambda: call.stop(_stop_request(one, call.run_id)))
    try:
        return call_result(tool, found)
    except HeldError as held:
        # In a shared run a call is held only if the rules have changed just now.
        store.claim(key, held.run_id if shared is None else f"{held.run_id}{_PART}{found.proposal_id}")
        raise


def _run_of(claimed: str) -> str:
    return claimed.partition(_PART)[0]


def _stop_request(one: _Call, run_id: str) -> StopRequest:
    at_us = one.services.clock.now_us()
    return StopRequest(
        run=run_id, by=one.caller.agent, surface="call", reason="the caller cancelled the call", at_us=at_us
    )


def _stop_run(one: _Call, run_id: str) -> None:
    for run in [run for run in one.services.hooks.runs if run.id == run_id]:
        run.stop(_stop_request(one, run_id))


async def _stopped_with_caller(work: Coroutine[Any, Any, T], stop: Callable[[], None]) -> T:
    """Carry out a call, and stop it if the caller is cancelled, because nobody would resume it.

    Raises: CancelledError once no part of the call is running; and the errors of the work.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()  # not `shield`, which needs another turn of the loop
    done = loop.create_task(_answer(work, answer))
    try:
        return await answer
    except asyncio.CancelledError:
        while not done.done():
            stop()
            with contextlib.suppress(asyncio.CancelledError):  # cancelled again: the run is being stopped anyway
                await asyncio.wait([done], timeout=_LOOK_AGAIN_S)
        if not done.cancelled():
            done.exception()  # retrieve the exception: the caller gets its own cancellation
        raise


async def _answer(work: Coroutine[Any, Any, T], answer: asyncio.Future[T]) -> None:
    """Carry out the work, and give its result or error to the caller, unless that has been cancelled."""
    try:
        result = await work
    except Exception as error:
        if answer.done():
            raise
        answer.set_exception(error)
    except BaseException:
        answer.cancel()
        raise
    else:
        if not answer.done():
            answer.set_result(result)

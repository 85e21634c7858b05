"""One tool call: through the gate, held for a while, and what the model is told.

A call that needs approval is first held without waiting, so that nothing is locked meanwhile and the hold survives if a
process is killed. Then the gateway waits for the approval, for less time than clients give a call, and repeats the
call, which continues with the approved run. If there is no answer yet, the model is told to repeat the call.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from interlock.engine.runtime import Runtime
from interlock.executors.mcp.connection import CLIENT
from interlock.executors.mcp.peer import RpcError
from interlock.model.errors import ConflictError, HeldError, ProposalError
from interlock.model.result import CallResult
from interlock.surfaces.gateway.callers import Caller

_PROGRESS_S: Final = 10.0


class Agent(NamedTuple):
    """The agent and session for which a client calls."""

    name: str | None
    """None for the configuration's agent."""
    session: str


class MissingCapabilityError(Exception):
    """A server refused the call because the client did not declare a capability that the server needs."""

    def __init__(self, message: str, required: list[str]) -> None:
        """`required` are the capabilities that the client lacks."""
        super().__init__(message)
        self.required = required


async def call_tool(
    runtime: Runtime, agent: Agent, tool: str, arguments: Mapping[str, Any], *, wait_s: float, caller: Caller
) -> dict[str, Any]:
    """The result of `tools/call`. Any failure is reported to the model in the result. Raises: as `carry_out`."""
    found = await carry_out(runtime, agent, tool, arguments, wait_s=wait_s, caller=caller)
    return _text(found, is_error=True) if isinstance(found, str) else _result(runtime, found)


async def carry_out(
    runtime: Runtime, agent: Agent, tool: str, arguments: Mapping[str, Any], *, wait_s: float, caller: Caller
) -> CallResult | str:
    """Make the call, and wait for an approval if necessary. Returns a text for the model if it was not made, or not
    yet.

    Raises: StoreError, ConfigurationError if Interlock itself cannot work; MissingCapabilityError for a newer client.
    """
    deadline = asyncio.get_running_loop().time() + wait_s
    CLIENT.set(caller)
    while True:
        try:
            found = await runtime.call(
                tool, arguments, agent=agent.name, session=agent.session, wait=False, resume_held=True
            )
            if found.reason == "client_capability_missing" and caller.is_modern:
                _require(found)
        except HeldError as held:
            if not await _answered(runtime, held, deadline, caller):
                return _held(held)
        except ProposalError as error:
            path = (error.path or "").replace("$.actions[0].parameters", "$")
            where = f"{path}: " if path else ""
            return f"[REJECTED] {where}{error.message}. Nothing was done."
        except ConflictError as error:
            return f"[REJECTED] {error.code}: {error.message}. Nothing was done."
        else:
            return found


async def _answered(runtime: Runtime, held: HeldError, deadline: float, caller: Caller) -> bool:
    """Wait for an approval until the deadline of the loop's clock. Meanwhile the client shows the held call, if it can."""
    if held.code != "held":  # an unknown outcome is settled by `interlock recover`, not by an approval
        return False
    loop = asyncio.get_running_loop()
    began = loop.time()
    message = f"waits for approval: `interlock approvals approve {held.approval}`, or `deny`"
    shown = loop.create_task(_show(held, caller)) if caller.can_show_forms and deadline > began else None
    try:
        while (left := deadline - loop.time()) > 0:
            caller.progress({"progress": round(loop.time() - began, 1), "message": message})
            if await runtime.approvals.wait(held.approval, min(left, _PROGRESS_S)):
                return True
        return False
    finally:
        if shown is not None:
            shown.cancel()


async def _show(held: HeldError, caller: Caller) -> None:
    """Show the held call at the client. The client's response is not an approval; only our own record counts."""
    text = (
        f"{held.message}. It waits for approval in a terminal, with `interlock approvals approve {held.approval}`, or"
        " `deny`. A choice made here has no effect."
    )
    schema = {"type": "object", "properties": {}}
    with contextlib.suppress(RpcError):
        await caller.ask("elicitation/create", {"mode": "form", "message": text, "requestedSchema": schema})


def _held(held: HeldError) -> str:
    if held.code != "held":
        return (
            f"[HELD] {held.code}: {held.message}. An earlier call was interrupted, and a person has to settle its "
            f"outcome: `interlock recover {held.run_id}`. Nothing was done now."
        )
    done = f"Done so far: {', '.join(held.done)}." if held.done else "Nothing was done yet."
    return (
        f"[HELD] {held.message}. {done} A person can answer with `interlock approvals approve {held.approval}` or"
        " `deny`. Call this tool again with the same arguments: once it is approved, that call continues."
    )


def _require(found: CallResult) -> None:
    """Raises: MissingCapabilityError if the client could declare more. Otherwise the operator has to change `asks`."""
    lacking = found.output.get("client_lacks") if isinstance(found.output, dict) else None
    if lacking:
        raise MissingCapabilityError(found.error or "the client lacks a capability that the call needs", lacking)


def _result(runtime: Runtime, found: CallResult) -> dict[str, Any]:
    own = None if runtime.servers.definition(found.tool) is None else found.output
    if isinstance(own, dict) and isinstance(own.get("content"), list):  # the result of a server is passed on unchanged
        shown = own if found.ok else {**own, "isError": True}
    else:
        shown = _text(found.for_model(), is_error=not found.ok)
    return shown | {"_meta": {"interlock/run": found.run_id}}


def _text(text: str, *, is_error: bool) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": text}], "isError": is_error}

"""The requests `tools/list` and `tools/call` of one client: its tools, and calls with requests to the client."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from interlock.engine.runtime import Runtime
from interlock.model.json_rpc import INTERNAL_ERROR, INVALID_PARAMS, MISSING_CAPABILITY, Fault, Request
from interlock.surfaces.gateway.asking import OpenCall, OpenCalls
from interlock.surfaces.gateway.callers import AskOlder, Caller, Tell
from interlock.surfaces.gateway.calls import Agent, MissingCapabilityError, call_tool
from interlock.surfaces.gateway.protocol import Envelope, one_page, tool_list


class ToolRequests:
    """Handles one client's requests about tools."""

    def __init__(self, runtime: Runtime, agent: Agent, open_calls: OpenCalls, wait_s: float) -> None:
        """`wait_s` is how long a held call waits for its approval."""
        self._runtime = runtime
        self._agent = agent
        self._open_calls = open_calls
        self._wait_s = wait_s

    async def list(self, request: Request, envelope: Envelope) -> dict[str, Any] | Fault:
        """The result of `tools/list`."""
        if (fault := one_page(request)) is not None:
            return fault
        await self._runtime.prepare()
        self._runtime.refresh()  # so that the list reflects the present rules
        tools = self._runtime.tools_for("mcp", agent=self._agent.name, session=self._agent.session)
        return tool_list(tools, envelope)

    async def call(
        self,
        request: Request,
        envelope: Envelope,
        tell: Tell,
        *,
        origin: object,
        capabilities: Mapping[str, Any],
        ask_older: AskOlder,
    ) -> dict[str, Any] | Fault:
        """The result of `tools/call`, or a request to the client that comes first.

        `origin` and `capabilities` are those of the client's connection; a newer request has its own capabilities.
        """
        name, arguments = request.params.get("name"), request.params.get("arguments")
        if not isinstance(name, str) or not name:
            return Fault(request.id, INVALID_PARAMS, "`name` must be the name of a tool")
        if arguments is None:
            arguments = {}
        if not isinstance(arguments, dict):
            return Fault(request.id, INVALID_PARAMS, "`arguments` must be an object")
        try:
            if envelope.is_modern and request.params.get("requestState") is not None:
                return await self._take_up(request, envelope, tell)
            await self._runtime.prepare()
            tool = self._runtime.tool_named(name, "mcp")
            if tool is None:
                return Fault(request.id, INVALID_PARAMS, f"there is no tool `{name[:80]}`")
            if envelope.is_modern:
                return await self._begin(request, envelope, tell, tool, arguments, origin)

            async def ask(method: str, params: dict[str, Any], _key: str) -> dict[str, Any]:
                return await ask_older(method, params, tell)

            caller = Caller(origin, envelope, capabilities, tell, ask)
            return await call_tool(self._runtime, self._agent, tool, arguments, wait_s=self._wait_s, caller=caller)
        except MissingCapabilityError as error:
            required: dict[str, Any] = {"requiredCapabilities": {name: {} for name in error.required}}
            return Fault(request.id, MISSING_CAPABILITY, str(error), required)

    async def _begin(
        self, request: Request, envelope: Envelope, tell: Tell, tool: str, arguments: dict[str, Any], origin: object
    ) -> dict[str, Any] | Fault:
        given = request.params.get("inputResponses")
        call = OpenCall(given if isinstance(given, dict) else {})
        caller = Caller(origin, envelope, envelope.capabilities, tell, call.ask)
        call.begin(caller, call_tool(self._runtime, self._agent, tool, arguments, wait_s=self._wait_s, caller=caller))
        return await self._continue(request, call)

    async def _take_up(self, request: Request, envelope: Envelope, tell: Tell) -> dict[str, Any] | Fault:
        """Continue a call that the client repeated with its answers."""
        call = self._open_calls.take(request.params["requestState"], request.method, request.params)
        if call is None:
            why = "`requestState` does not belong to this call: it was used, has expired, or is from another gateway"
            return Fault(request.id, INVALID_PARAMS, f"{why}; make the call again without it")
        responses = request.params.get("inputResponses")
        call.caller.rebind(envelope, tell)
        call.answer(responses if isinstance(responses, dict) else {})
        return await self._continue(request, call)

    async def _continue(self, request: Request, call: OpenCall) -> dict[str, Any] | Fault:
        """The call's result, or a request to the client that comes first."""
        try:
            questions = await call.wait_news()
        except asyncio.CancelledError:
            call.task.cancel()
            await asyncio.wait([call.task])
            raise
        if questions is None:
            return call.task.result()
        state = self._open_calls.keep(call, request.method, request.params)
        if state is None:
            call.task.cancel()
            return Fault(request.id, INTERNAL_ERROR, "too many calls wait for their clients")
        return {"resultType": "input_required", "inputRequests": questions, "requestState": state}

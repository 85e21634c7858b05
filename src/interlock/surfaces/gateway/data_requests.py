"""Requests of a client for resources and prompts: each is a call of the tool `SERVER/METHOD`, through the gate.

If only one server has reachable resources, they keep their addresses; otherwise addresses begin with
`interlock://SERVER/`. Results name the server they are from, and state that it is not trusted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from interlock.engine.kit.names import safe_names
from interlock.engine.runtime import Runtime
from interlock.executors.mcp.peer import RpcError
from interlock.model.json_rpc import INTERNAL_ERROR, INVALID_PARAMS, MISSING_CAPABILITY, Fault, Request
from interlock.surfaces.gateway.callers import AskOlder, Caller, Tell
from interlock.surfaces.gateway.calls import Agent, MissingCapabilityError, carry_out
from interlock.surfaces.gateway.protocol import Envelope, not_cached, one_page

METHODS: Final = ("resources/list", "resources/templates/list", "resources/read", "prompts/list", "prompts/get")
_SCHEME: Final = "interlock://"
_NAME_CHARS_MAX: Final = 48
"""Clients prefix the name of a prompt with `mcp__interlock__`."""
_KEYS: Final = {
    "resources/list": ("resources", "uri"),
    "resources/templates/list": ("resourceTemplates", "uriTemplate"),
}
_PASSED_ON: Final = (-32002, INVALID_PARAMS)
"""The server errors that are passed on to a client: no such resource, and wrong parameters."""


class _Asked(NamedTuple):
    """One request, with the client behind it."""

    request: Request
    envelope: Envelope
    caller: Caller


class DataRequests:
    """Handles one client's requests for resources and prompts."""

    def __init__(self, runtime: Runtime, agent: Agent, wait_s: float) -> None:
        """`wait_s` is how long a held request waits for its approval."""
        self._runtime = runtime
        self._agent = agent
        self._wait_s = wait_s

    async def handle(
        self,
        request: Request,
        envelope: Envelope,
        tell: Tell,
        *,
        origin: object,
        capabilities: Mapping[str, Any],
        ask_older: AskOlder,
    ) -> dict[str, Any] | Fault:
        """The result of a request with one of `METHODS`.

        `origin` and `capabilities` belong to the client's connection; a newer request has its own capabilities.
        """

        async def ask(method: str, params: dict[str, Any], _key: str) -> dict[str, Any]:
            if envelope.is_modern:
                raise RpcError(MISSING_CAPABILITY, "the client can be asked only during a call of a tool")
            return await ask_older(method, params, tell)

        declared = envelope.capabilities if envelope.is_modern else capabilities
        asked = _Asked(request, envelope, Caller(origin, envelope, declared, tell, ask))
        await self._runtime.prepare()
        self._runtime.refresh()
        try:
            match request.method:
                case "prompts/list":
                    return self._list_prompts(asked)
                case "prompts/get":
                    return await self._get_prompt(asked)
                case "resources/read":
                    return await self._read(asked)
                case _:
                    return await self._list(asked)
        except MissingCapabilityError as error:
            required: dict[str, Any] = {"requiredCapabilities": {name: {} for name in error.required}}
            return Fault(request.id, MISSING_CAPABILITY, str(error), required)

    # -- prompts

    def _list_prompts(self, asked: _Asked) -> dict[str, Any] | Fault:
        if (fault := one_page(asked.request)) is not None:
            return fault
        names = self._prompt_names()
        offering = self._offering("prompts/get")
        found = [
            {**prompt.as_dict(), "name": names[f"{server}/{prompt.name}"]}
            for server, prompts in self._runtime.servers.prompts().items()
            if server in offering
            for prompt in prompts
        ]
        return {"prompts": found, **_caching(asked.envelope)}

    async def _get_prompt(self, asked: _Asked) -> dict[str, Any] | Fault:
        name, arguments = asked.request.params.get("name"), asked.request.params.get("arguments") or {}
        own = {safe: full for full, safe in self._prompt_names().items()}.get(name) if isinstance(name, str) else None
        server, _, prompt = (own or "").partition("/")
        if server not in self._offering("prompts/get"):
            return Fault(asked.request.id, INVALID_PARAMS, f"there is no prompt `{str(name)[:80]}`")
        parameters = {"name": prompt, **({"arguments": arguments} if arguments else {})}
        found = await self._call(asked, server, "prompts/get", parameters)
        if isinstance(found, Fault):
            return found
        said = found.get("description")
        found["description"] = f"From the MCP server `{server}`, not from the user" + (f": {said}" if said else ".")
        return found

    def _prompt_names(self) -> dict[str, str]:
        """The name of each locked prompt for clients, by server and own name; the same for every agent."""
        locked = self._runtime.servers.prompts()
        return safe_names(
            [f"{name}/{each.name}" for name, prompts in locked.items() for each in prompts], _NAME_CHARS_MAX
        )

    # -- resources

    async def _list(self, asked: _Asked) -> dict[str, Any] | Fault:
        """The lists of all servers together. A server that refuses or cannot be reached is left out, unless it is the
        only one.
        """
        if (fault := one_page(asked.request)) is not None:
            return fault
        key, address = _KEYS[asked.request.method]
        servers = self._offering(asked.request.method)
        lists = await asyncio.gather(*(self._call(asked, name, asked.request.method, {}, wait_s=0) for name in servers))
        if len(lists) == 1 and isinstance(lists[0], Fault):
            return lists[0]
        found: list[dict[str, Any]] = []
        only = self._only_server()
        for server, listed in zip(servers, lists, strict=True):
            if not isinstance(listed, Fault):
                found += [{**each, address: _address(server, each[address], only)} for each in listed[key]]
        return {key: found, **_caching(asked.envelope)}

    async def _read(self, asked: _Asked) -> dict[str, Any] | Fault:
        uri = asked.request.params.get("uri")
        if not isinstance(uri, str) or not uri:
            return Fault(asked.request.id, INVALID_PARAMS, "`uri` must be the address of a resource")
        servers = self._offering("resources/read")
        server, own = servers[0] if len(servers) == 1 else "", uri
        if uri.startswith(_SCHEME):
            server, _, own = uri.removeprefix(_SCHEME).partition("/")
        if server not in servers or not own:
            hint = f" (of which server? `{_SCHEME}SERVER/{uri[:80]}`)" if len(servers) > 1 else ""
            return Fault(asked.request.id, INVALID_PARAMS, f"there is no resource `{uri[:80]}`{hint}")
        found = await self._call(asked, server, "resources/read", {"uri": own})
        if isinstance(found, Fault):
            return Fault(found.id, found.code, found.message, {"uri": uri, **(found.data or {})})
        only = self._only_server()
        contents = [{**each, "uri": _address(server, each["uri"], only)} for each in found["contents"]]
        return {**found, "contents": contents, **_caching(asked.envelope)}

    def _only_server(self) -> bool:
        """True if only one server has reachable resources, so that they keep their addresses."""
        return len(self._offering("resources/read")) == 1

    # -- both

    def _offering(self, method: str) -> list[str]:
        return self._runtime.servers.offering(method, self._agent.name, self._agent.session)

    async def _call(
        self, asked: _Asked, server: str, method: str, parameters: dict[str, Any], *, wait_s: float | None = None
    ) -> dict[str, Any] | Fault:
        """Make the request through the gate. Raises: MissingCapabilityError."""
        found = await carry_out(
            self._runtime,
            self._agent,
            f"{server}/{method}",
            parameters,
            wait_s=self._wait_s if wait_s is None else wait_s,
            caller=asked.caller,
        )
        if isinstance(found, str):
            return Fault(asked.request.id, INTERNAL_ERROR, found)
        if not found.ok or not isinstance(found.output, dict):
            code = found.output.get("code") if isinstance(found.output, dict) else None
            if found.reason == "invalid_parameters":
                code = INVALID_PARAMS
            said = {"reason": found.reason, "run": found.run_id}
            return Fault(asked.request.id, code if code in _PASSED_ON else INTERNAL_ERROR, found.for_model(), said)
        meta = {"interlock/run": found.run_id, "interlock/server": server, "interlock/trusted": False}
        return {**found.output, "_meta": meta}


def _address(server: str, uri: str, only: bool) -> str:
    return uri if only else f"{_SCHEME}{server}/{uri}"


def _caching(envelope: Envelope) -> dict[str, Any]:
    return not_cached() if envelope.is_modern else {}

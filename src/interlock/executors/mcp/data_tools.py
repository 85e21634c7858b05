"""The resources and prompts of an MCP server as tools, so that each read goes through the gate.

The tools are named like the methods of MCP: `files/resources/read` reads a resource of the server `files`. Agents do not see
these tools: a door that speaks MCP offers resources and prompts as such.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

from interlock.executors.mcp.connection import CLIENT, Connection
from interlock.executors.mcp.contents import URI_CHARS_MAX, read_contents, read_entries, read_messages
from interlock.executors.mcp.launch import ServerSpec
from interlock.executors.mcp.lock import LockedServer
from interlock.executors.mcp.peer import RpcError
from interlock.model.errors import ProposalError, ToolError
from interlock.model.globs import name_matcher
from interlock.model.tool import DATA_TAG, Binding, Context, Tool, Writes

READ: Final = "resources/read"
LIST: Final = "resources/list"
TEMPLATES: Final = "resources/templates/list"
PROMPT: Final = "prompts/get"
ENTRIES_MAX: Final = 1_000
_PAGES_MAX: Final = 100
_TIMEOUT_MS: Final = 60_000

Connect = Callable[[Context], Connection]
Work = Callable[[Connection, dict[str, Any]], Awaitable[dict[str, Any]]]


def data_bindings(spec: ServerSpec, locked: LockedServer, connect: Connect) -> Iterator[Binding]:
    """Yields the tools for a server's locked resources and prompts. A tool of the server with the same name takes precedence."""
    own = locked.by_name()
    for method, (offered, description, parameters, work) in _methods(locked).items():
        if offered and method not in own:
            yield _binding(spec, method, description, parameters, work, connect)


def _methods(locked: LockedServer) -> dict[str, tuple[bool, str, dict[str, Any], Work]]:
    nothing = {"type": "object", "properties": {}, "additionalProperties": False}
    address = {"type": "string", "minLength": 1, "maxLength": URI_CHARS_MAX}
    uri = {"type": "object", "properties": {"uri": address}, "required": ["uri"], "additionalProperties": False}
    texts = {"type": "object", "additionalProperties": {"type": "string"}}
    names = sorted(locked.prompts_by_name())
    prompt = {
        "type": "object",
        "properties": {"name": {"enum": names}, "arguments": texts},
        "required": ["name"],
        "additionalProperties": False,
    }
    return {
        LIST: (locked.resources, "List the resources of an MCP server.", nothing, _list),
        TEMPLATES: (locked.resources, "List the resource templates of an MCP server.", nothing, _list_templates),
        READ: (locked.resources, "Read a resource of an MCP server.", uri, _read),
        PROMPT: (bool(names), "Get a prompt of an MCP server.", prompt, _get),
    }


def _binding(
    spec: ServerSpec, method: str, description: str, parameters: dict[str, Any], work: Work, connect: Connect
) -> Binding:
    read_only = name_matcher(spec.read_only)(method)
    tool = Tool(
        name=f"{spec.name}/{method}",
        description=description,
        parameters=parameters,
        read_only=read_only,
        destructive=not read_only,
        timeout_ms=_TIMEOUT_MS,
        tags=(DATA_TAG,),
    )

    async def call(given: dict[str, Any], ctx: Context) -> Any:
        try:
            return await work(connect(ctx), given)
        except RpcError as error:
            raise ToolError(
                f"the server refused the request: {error.message[:1000]}",
                code="tool_failed",
                output={"code": error.code},
            ) from None
        except ProposalError as error:
            raise ToolError(
                f"the server's result cannot be used: {error.message}", code="invalid_output", retryable=False
            ) from None

    writes: Writes = "anywhere" if spec.writes and not read_only else "nothing"
    return Binding(tool=tool, function=call, mode="async", writes=writes)


async def _list(connection: Connection, _given: dict[str, Any]) -> dict[str, Any]:
    return {"resources": read_entries(await _pages(connection, LIST, "resources"), "uri")}


async def _list_templates(connection: Connection, _given: dict[str, Any]) -> dict[str, Any]:
    return {"resourceTemplates": read_entries(await _pages(connection, TEMPLATES, "resourceTemplates"), "uriTemplate")}


async def _read(connection: Connection, given: dict[str, Any]) -> dict[str, Any]:
    return read_contents(await _fetch(connection, READ, given))


async def _get(connection: Connection, given: dict[str, Any]) -> dict[str, Any]:
    return read_messages(await _fetch(connection, PROMPT, given))


async def _pages(connection: Connection, method: str, key: str) -> list[Any]:
    """Returns all pages of a list, bounded and unchecked."""
    found: list[Any] = []
    cursor: str | None = None
    for _ in range(_PAGES_MAX):
        page = await _fetch(connection, method, {} if cursor is None else {"cursor": cursor})
        items = page.get(key)
        found += items if isinstance(items, list) else []
        cursor = page.get("nextCursor")
        if not isinstance(cursor, str) or len(found) >= ENTRIES_MAX:
            break
    return found[:ENTRIES_MAX]


async def _fetch(connection: Connection, method: str, params: dict[str, Any]) -> dict[str, Any]:
    client = CLIENT.get()
    meta = {} if client is None or not client.trace else {"_meta": dict(client.trace)}
    return await connection.request(method, {**params, **meta})

"""Definitions, for a model, of the tools that an agent may reach.

A tool is hidden if grants and policies would refuse every call of it. A tool that needs approval, or is allowed for some
parameters only, is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal, get_args
from weakref import WeakKeyDictionary

from interlock.engine.kit.names import CHARS_MAX, safe_names, shown_to_models
from interlock.engine.kit.tool_schemas import model_schema
from interlock.engine.services import Services
from interlock.engine.tools.registry import Registry
from interlock.model.errors import UsageError
from interlock.model.grant import OPERATOR
from interlock.model.tool import Tool

if TYPE_CHECKING:
    from interlock.executors.mcp.servers import Servers

Format = Literal["openai", "openai-responses", "anthropic", "mcp"]
"""OpenAI's Chat Completions and Responses (and compatible servers), Anthropic's Messages, and MCP's `tools/list`."""


_MCP_CHARS_MAX: Final = CHARS_MAX - len("mcp__interlock__")
"""MCP clients put the server's name in front, within the same limit."""


def names_for(services: Services, form: Format) -> Mapping[str, str]:
    """The name under which a model sees each tool, by the tool's own name."""
    return _names(_shown(services.registry), form)[0]


def own_name(services: Services, name: str, form: Format) -> str | None:
    """The tool's own name, from the one that a model sees; None if there is none."""
    return _names(_shown(services.registry), form)[1].get(name)


_kept: Final[WeakKeyDictionary[Registry, tuple[int, tuple[str, ...]]]] = WeakKeyDictionary()


def _shown(registry: Registry) -> tuple[str, ...]:
    """`shown_to_models`, computed once until the tools change, because a door asks with each call."""
    generation, found = _kept.get(registry, (-1, ()))
    if generation != registry.generation:
        found = shown_to_models(registry.by_name)
        _kept[registry] = registry.generation, found
    return found


@lru_cache(maxsize=8)
def _names(tools: tuple[str, ...], form: Format) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Both ways."""
    names = safe_names(tools, _MCP_CHARS_MAX if form == "mcp" else CHARS_MAX)
    return names, {safe: own for own, safe in names.items()}


def reachable(services: Services, agent: str, session: str | None, token: str | None = None) -> list[Tool]:
    """The tools that the agent may reach, by name; with a token id, those that it may reach under that grant token.

    Raises: ConfigurationError if the rules cannot be used.
    """
    judges = services.judges.current(session, token)
    principal = judges.principal(agent, session)
    hidden = () if services.mcp is None else services.mcp.hidden
    registry = services.registry
    shown = (tool for tool in registry.definitions() if tool.name not in hidden)
    return [tool for tool in shown if judges.may_ever(principal, tool, registry)]


def definitions(services: Services, form: Format, *, agent: str, session: str | None) -> list[dict[str, Any]]:
    """The definitions for a model; see `Runtime.tools_for`."""
    if form not in get_args(Format):
        raise UsageError(f"`{form}` is not a known shape of tools", hint=f"one of {', '.join(get_args(Format))}")
    if agent == OPERATOR:
        raise UsageError(f"`{OPERATOR}` is not an agent: it stands for the person at the command line")
    services.require_tools()
    names = names_for(services, form)
    shown = [
        (tool.name, _definition(form, names[tool.name], tool))
        for tool in reachable(services, agent, session)
        if tool.name in names
    ]
    if form == "mcp" and services.mcp is not None:
        for name, definition in shown:
            definition.update(_more(services.mcp, name))
    return [definition for _, definition in shown]


def _more(servers: Servers, name: str) -> dict[str, Any]:
    """Further fields of a server's tool that clients show; no decision depends on them."""
    locked = servers.definition(name)
    if locked is None:
        return {}
    title = locked.title or locked.annotations.get("title")
    # The locked parameters: a client uses more of a schema than a model does.
    parameters = {"type": "object", **locked.input_schema}
    found = {"title": title, "outputSchema": locked.output_schema, "inputSchema": parameters}
    return {field: value for field, value in found.items() if value}


def _definition(form: Format, name: str, tool: Tool) -> dict[str, Any]:
    schema = model_schema(tool.parameters)
    match form:
        case "openai":
            function = {"name": name, "description": tool.description, "parameters": schema}
            return {"type": "function", "function": function}
        case "openai-responses":
            # Not strict: strict schemas may have neither defaults nor optional parameters.
            return {
                "type": "function", "name": name, "description": tool.description, "parameters": schema, "strict": False,
            }  # fmt: skip
        case "anthropic":
            return {"name": name, "description": tool.description, "input_schema": schema}
        case "mcp":
            hints = {
                "readOnlyHint": tool.read_only,
                "destructiveHint": tool.destructive and not tool.read_only,
                "idempotentHint": tool.idempotent,
                "openWorldHint": tool.open_world,
            }
            return {"name": name, "description": tool.description, "inputSchema": schema, "annotations": hints}

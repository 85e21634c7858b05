"""What policies can refer to: agents and their groups, actions and their groups, tools, servers, state keys, hosts.

Each tool is an action, `Action::"fs.read"`, in the groups `Action::"call"`, `Action::"server:NAME"` and, for each of
its tags, `Action::"tag:TAG"` (the listed tags, and `read_only`, `destructive`, `open_world`, `idempotent` where they
are true). There are also the five built-in actions of `BUILT_IN`. A tool's server is the part of its name before the
`/`, else `local`.
"""

from __future__ import annotations

import contextlib
from functools import cached_property
from ipaddress import ip_address
from typing import Any, Final

import msgspec

from interlock.model.decision import Request
from interlock.model.hosts import endpoint
from interlock.model.schema import SchemaError, marks
from interlock.model.tool import Tool
from interlock.policy.operators import Entity, Situation
from interlock.policy.shapes import OPEN, UNKNOWN, Atom, Field, Fields, Many, parameters
from interlock.policy.terms import Address, Uid

CALL: Final = "call"
COMPENSATE: Final = "compensate"
LOCAL: Final = "local"
IMPLIED_TAGS: Final = ("read_only", "destructive", "open_world", "idempotent")

_KEY: Final = {"key": Field(Atom("String"), required=True)}
BUILT_IN: Final[dict[str, tuple[str, Fields]]] = {
    "state_read": ("StateKey", Fields(_KEY)),
    "state_write": ("StateKey", Fields({**_KEY, "value": Field(UNKNOWN)})),
    "assert": ("StateKey", Fields({**_KEY, "expected": Field(UNKNOWN)})),
    COMPENSATE: ("Tool", OPEN),
    "connect": ("Host", Fields()),
}
"""The actions that are not tools, with the type of their resource and the shape of their parameters."""
ON_STATE: Final = tuple(name for name, (resource, _) in BUILT_IN.items() if resource == "StateKey")
"""The built-in actions that a proposal can name."""

_TEXT: Final = Field(Atom("String"), required=True)
_FLAG: Final = Field(Atom("Bool"), required=True)
ENTITY_TYPES: Final[dict[str, tuple[tuple[str, ...], Fields]]] = {
    "Agent": (("Group",), Fields()),
    "Group": ((), Fields()),
    "Server": ((), Fields()),
    "Tool": (
        ("Server",),
        Fields(
            {
                "name": _TEXT,
                "read_only": _FLAG,
                "destructive": _FLAG,
                "open_world": _FLAG,
                "idempotent": _FLAG,
                "pinned": _FLAG,
                "reversibility": _TEXT,
                "tags": Field(Many(Atom("String")), required=True),
            }
        ),
    ),
    "StateKey": ((), Fields({"name": _TEXT})),
    # hosts given as an address also have `ip`, an ipaddr; see `schema`
    "Host": ((), Fields({"name": _TEXT, "host": _TEXT, "port": Field(Atom("Long"))})),
}
"""Each entity type, with the types it can be in and its attributes."""

SESSION: Final = Fields({"name": Field(Atom("String"))})
COMMAND: Final = Fields(
    {
        "program": _TEXT,
        "name": _TEXT,
        "line": _TEXT,
        "by_name": _TEXT,
        "words": Field(Many(Atom("String")), required=True),
        "redirections": Field(Many(Atom("String")), required=True),
        "assignments": Field(Many(Atom("String")), required=True),
        "literal": _FLAG,
        "plain": _FLAG,
    }
)
"""A simple command of a parameter marked `command`; see `commands`."""
MODEL: Final = Fields({"model": _TEXT, "provider": _TEXT, "prompt_flags": Field(Many(Atom("String")), required=True)})
"""Extra attributes of a model call. The tool's schema marks the parameter that names the model with `x-interlock: model`."""
PROVIDERS: Final = "x-interlock-providers"
"""A key beside that mark: an object with the provider of each model."""
PROPOSAL: Final = Fields({"id": _TEXT, "source": _TEXT, "action_count": Field(Atom("Long"), required=True)})


class World(msgspec.Struct, frozen=True, kw_only=True):
    """The names that exist, given at load."""

    tools: tuple[Tool, ...] = ()
    agents: dict[str, tuple[str, ...]] | None = None
    """The agents and the groups of each; None if unknown, in which case group names are not checked."""
    approval_groups: frozenset[str] | None = None
    """The groups that can answer a hold; None if unknown, in which case the groups in `@hold` are not checked."""
    pinned: frozenset[str] = frozenset()
    """Names of the tools whose definitions are pinned in `interlock.lock`."""
    root: str = "/"
    """The base of relative paths: the workspace."""
    home: str = "/"
    """The value of `~`."""
    env_allow: tuple[str, ...] = ()
    """Environment variables that a call may set without approval, in addition to those known to be harmless."""


class ActionType:
    """An action in the schema. What only some policies look at is read from the tool's schema when it is first used."""

    def __init__(self, name: str, groups: tuple[str, ...], resource_type: str, tool: Tool | None = None) -> None:
        """`groups` are those of the action; a built-in action has no `tool`."""
        self.name = name
        self.groups = groups
        self.resource_type = resource_type
        self.command = marked_parameter(tool, "command")
        """The parameter marked as a command line (a string for a shell, or an array of words), if there is one."""
        self.environment = marked_parameter(tool, "environment")
        """The parameter marked as environment variables of a program, if there is one."""
        self.model = marked_parameter(tool, "model")
        """The parameter that names a model, if there is one."""
        self._tool = tool

    @cached_property
    def context(self) -> Fields:
        """The shape of its context."""
        if self._tool is None:
            return _context(BUILT_IN[self.name][1])
        shape = _context(parameters(self._tool.parameters))
        if self.command is not None:
            shape = Fields({**shape.fields, "command": Field(COMMAND, required=True)})
        shape = Fields({**shape.fields, "paths": Field(Many(Atom("String")), required=True)})
        return shape if self.model is None else Fields({**shape.fields, **MODEL.fields})

    @cached_property
    def providers(self) -> dict[str, str]:
        """The provider of each model."""
        return {} if self._tool is None else _providers(self._tool, self.model)

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """Pointer patterns of the parameters marked as paths."""
        return () if self._tool is None else path_parameters(self._tool)


def about(action: str, resource: str | None, parameters: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """Complete the resource and parameters of a handwritten request: for state actions, each is derived from the other.

    The resource is None if a built-in action needs one and none is given.
    """
    if action not in BUILT_IN:
        return action if resource is None else resource, parameters
    if BUILT_IN[action][0] != "StateKey":
        return resource, parameters
    key = parameters.get("key") if resource is None else resource
    return (key, {"key": key, **parameters}) if isinstance(key, str) else (None, parameters)


def server_of(name: str) -> str:
    """The server of a tool, from the tool's name."""
    server, slash, _ = name.partition("/")
    return server if slash else LOCAL


def tags_of(tool: Tool) -> tuple[str, ...]:
    """The tags of a tool, including those implied by its flags."""
    implied = tuple(name for name in IMPLIED_TAGS if getattr(tool, name))
    return tuple(dict.fromkeys((*tool.tags, *implied)))


def actions(world: World) -> dict[str, ActionType]:
    """Every action that requests can name, by name. No tool may have the name of a built-in action or a group."""
    found = {name: ActionType(name, (), resource_type) for name, (resource_type, _) in BUILT_IN.items()}
    for tool in world.tools:
        groups = (CALL, f"server:{server_of(tool.name)}", *(f"tag:{tag}" for tag in tags_of(tool)))
        found[tool.name] = ActionType(tool.name, groups, "Tool", tool)
    return found


def marked_parameter(tool: Tool | None, mark: str) -> str | None:
    """The top-level parameter that a tool's schema marks with `mark`."""
    listed = None if tool is None else tool.parameters.get("properties")
    fields = listed.items() if isinstance(listed, dict) else ()
    return next((name for name, part in fields if isinstance(part, dict) and part.get("x-interlock") == mark), None)


def _providers(tool: Tool, model: str | None) -> dict[str, str]:
    listed = {} if model is None else tool.parameters["properties"][model].get(PROVIDERS, {})
    return {str(name): str(provider) for name, provider in listed.items()} if isinstance(listed, dict) else {}


def path_parameters(tool: Tool) -> tuple[str, ...]:
    """Pointer patterns of the parameters that a tool's schema marks as paths."""
    try:
        return tuple(where for where, mark in marks(tool.parameters) if mark.startswith("path."))
    except SchemaError:  # a tool with a bad schema cannot be registered
        return ()


def action_groups(world: World) -> set[str]:
    """The names of all action groups. The groups of implied tags exist even if no tool is in them."""
    found = {CALL, f"server:{LOCAL}", *(f"tag:{tag}" for tag in IMPLIED_TAGS)}
    for tool in world.tools:
        found.add(f"server:{server_of(tool.name)}")
        found.update(f"tag:{tag}" for tag in tags_of(tool))
    return found


def _context(params: Fields) -> Fields:
    return Fields(
        {
            "params": Field(params, required=True),
            "state": Field(OPEN, required=True),
            "proposal": Field(PROPOSAL, required=True),
            "session": Field(SESSION, required=True),
            "flags": Field(Many(Atom("String")), required=True),
        }
    )


def entities(world: World, known: dict[str, ActionType]) -> dict[Uid, Entity]:
    """The entities that all requests share: actions, tools, servers."""
    found = {
        Uid("Action", action.name): Entity(frozenset(Uid("Action", group) for group in action.groups))
        for action in known.values()
    }
    for tool in world.tools:
        attributes: dict[str, Any] = {
            "name": tool.name,
            "read_only": tool.read_only,
            "destructive": tool.destructive,
            "open_world": tool.open_world,
            "idempotent": tool.idempotent,
            "pinned": tool.name in world.pinned,
            "reversibility": tool.reversibility,
            "tags": frozenset(tags_of(tool)),
        }
        server = Uid("Server", server_of(tool.name))
        found[Uid("Tool", tool.name)] = Entity(frozenset((server,)), attributes)
        found.setdefault(server, Entity())
    return found


def situation(world: World, shared: dict[Uid, Entity], request: Request) -> Situation:
    """The situation of a request: principal, action, resource, and the entities of this request only."""
    principal = Uid("Agent", request.agent)
    groups = {*request.groups, *(world.agents or {}).get(request.agent, ())}
    local = {principal: Entity(frozenset(Uid("Group", group) for group in groups))}
    resource = Uid(request.resource_type, request.resource)
    if request.resource_type == "Host":
        attributes = _host(request.resource)
        resource = Uid("Host", attributes["name"])
        local[resource] = Entity(attributes=attributes)
    elif request.resource_type == "StateKey":
        local[resource] = Entity(attributes={"name": resource.id})
    return Situation(principal, Uid("Action", request.action), resource, shared, local)


def host_id(text: str) -> str:
    """The id of a host's entity: its normal form, so that `EXAMPLE.org.` and `0x7f.1` cannot evade a policy.

    Raises: ValueError.
    """
    there = endpoint(text)
    return there.host if there.port is None else str(there)


def _host(text: str) -> dict[str, Any]:
    """The attributes of `example.org:443`, `10.0.0.1:80` or `[::1]:80`; `name` is also the entity's id."""
    try:
        there = endpoint(text)
    except ValueError:
        return {"name": text, "host": text}  # the judge refuses it
    found: dict[str, Any] = {"name": host_id(text), "host": there.host}
    if there.port is not None:
        found["port"] = there.port
    with contextlib.suppress(ValueError):
        found["ip"] = Address(str(ip_address(there.host)))
    return found

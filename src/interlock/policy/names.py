"""Checks the names in policies: tools, servers, agents, groups and entity types must exist."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from typing import Final

from interlock.detect import FLAGS, PROMPT_FLAGS
from interlock.model.errors import ConfigurationError
from interlock.policy import syntax
from interlock.policy.calls import Paths
from interlock.policy.compile import NotCoveredError, walk
from interlock.policy.policies import Absence, Policy, Problem, nearest
from interlock.policy.world import BUILT_IN, ActionType, World, host_id

_NOUNS: Final = {
    "Action": "tool or action",
    "Tool": "tool",
    "Server": "server",
    "Agent": "agent",
    "Group": "group of agents",
}


_PATHS: Final = "path globs"
_SETS: Final = (
    (syntax.GetAttr(syntax.Var("context"), "paths"), _PATHS),
    (syntax.GetAttr(syntax.Var("context"), "flags"), "no detector has the flag"),
    (syntax.GetAttr(syntax.Var("context"), "prompt_flags"), "no detector of prompts has the flag"),
    (syntax.GetAttr(syntax.Var("resource"), "tags"), "no tool has the tag"),
)

_FLAGS: Final = {"no detector has the flag": FLAGS, "no detector of prompts has the flag": PROMPT_FLAGS}


class Names:
    """The names that exist in a world, by entity type."""

    def __init__(self, world: World, actions: dict[str, ActionType], groups: set[str]) -> None:
        """`groups` are the action groups."""
        agents = world.agents
        self._approvers = world.approval_groups
        self._tags = {group.removeprefix("tag:") for group in groups if group.startswith("tag:")}
        self._known: dict[str, Collection[str] | None] = {
            "Action": {*actions, *groups},
            "Tool": {tool.name for tool in world.tools},
            "Server": {group.removeprefix("server:") for group in groups if group.startswith("server:")},
            "Group": None if agents is None else {group for each in agents.values() for group in each},
            # agents, state keys and hosts can have any name
            "Agent": None,
            "StateKey": None,
            "Host": None,
        }

    def check(self, policy: Policy) -> list[Problem]:
        """The unknown names in a policy."""
        found: list[Problem] = []
        for uid in sorted(syntax.entity_uids(policy.tree), key=str):
            kind = str(uid.type)
            if kind not in self._known:
                message = f"unknown entity type `{kind}`{nearest(kind, self._known)}"
                found.append(Problem(policy.statement.place_of(kind), message))
                continue
            if kind == "Host" and (wrong := _host(uid.id)):
                found.append(Problem(policy.statement.place_of(uid.id), wrong))
                continue
            exist = self._known[kind]
            if exist is not None and uid.id not in exist:
                message = f"no {_NOUNS[kind]} is named `{uid.id}`{nearest(uid.id, exist)}"
                place = policy.statement.place_of(uid.id)
                found.append(
                    Problem(place, message) if kind == "Group" else Absence(place, message, kind=kind, name=uid.id)
                )
        if isinstance(policy.tree.action, syntax.ActionIn) and not policy.tree.action.entities:
            found.append(Problem(policy.statement.place_of("in"), "`action in []` covers no action"))
        for what, name in _words(policy.tree):
            if what == _PATHS:
                if wrong := _path_glob(name):
                    found.append(Problem(policy.statement.place_of(name), wrong))
                continue
            words: Collection[str] = _FLAGS.get(what, self._tags)
            of_flags = what in _FLAGS
            if name not in words:
                place, message = policy.statement.place_of(name), f"{what} `{name}`{nearest(name, words)}"
                found.append(Problem(place, message) if of_flags else Absence(place, message, kind="tag", name=name))
        group = policy.hold.group if policy.hold else None
        if group and self._approvers is not None and group not in self._approvers:
            message = f"no group of approvers is named `{group}`{nearest(group, self._approvers)}"
            found.append(Problem(policy.statement.place_of(group), message))
        return found


def path_globs(policies: Iterable[Policy]) -> set[str]:
    """The path globs that policies test in `context.paths`."""
    return {name for policy in policies for what, name in _words(policy.tree) if what == _PATHS}


def _path_glob(glob: str) -> str | None:
    """The problem with a path glob, or None."""
    try:
        Paths((glob,), "/", "/")
    except ConfigurationError as error:
        return error.message
    return None


def _host(name: str) -> str | None:
    """Why no request can name a host in this form; None if one can."""
    try:
        one = host_id(name)
    except ValueError as error:
        return f"the host `{name}` {error}"
    return None if one == name else f"the host `{name}` always appears as `{one}` in requests; write `{one}`"


def _words(tree: syntax.Template) -> Iterator[tuple[str, str]]:
    """The literals that a policy tests in `context.flags`, `context.paths` and `resource.tags`.

    `load` reports unknown syntax.
    """
    with suppress(NotCoveredError):
        for node in (node for clause in tree.clauses for node in walk(clause.expr)):
            if not isinstance(node, syntax.BinaryOp):
                continue
            for words, wanted in ((node.left, node.right), (node.right, node.left)):
                what = next((what for place, what in _SETS if place == words), None)
                if what is not None:
                    literals = wanted.elements if isinstance(wanted, syntax.Set) else (wanted,)
                    yield from ((what, each.value) for each in literals if isinstance(each, syntax.StringLit))


def check_tools(world: World, groups: set[str]) -> list[Problem]:
    """Tools whose name is already used by another tool, a built-in action, or a group of actions."""
    found: list[Problem] = []
    seen: set[str] = set()
    for tool in world.tools:
        if tool.name in seen:
            found.append(Problem("tools", f"two tools are named `{tool.name}`"))
        elif tool.name in groups or tool.name in BUILT_IN:
            message = f"a tool cannot be named `{tool.name}`: policies use that name for something else"
            found.append(Problem("tools", message))
        seen.add(tool.name)
    return found

"""Compiled grants: which tools, keys, paths and hosts an agent may use. What is not granted is denied.

Several grants of one agent add up, but each call must fit a single grant: a tool of one grant never gets the paths of
another. A grant with a parent is the intersection of both; if the parent is missing (revoked), the grant allows nothing.

A tool with `open_world` that marks neither path nor host must be named in the grant's `unscoped`. Isolated tools
(`isolation`, which only our own executors set) are exempt: the grant configures the isolation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from interlock.capability.arguments import NOT_REACHED, Access, Defaults, Marks, Reach, named, normalize, reaches
from interlock.capability.compiled import Compiled
from interlock.model.decision import Refusal
from interlock.model.errors import ConfigurationError
from interlock.model.globs import ROOT, PathGlob, path_matcher, workspace_path
from interlock.model.grant import GROUP, TOKEN, Grant
from interlock.model.tool import Tool


class Capability:
    """The compiled grants of a run. Immutable: compile again after a grant is issued or revoked."""

    def __init__(
        self,
        by_agent: Mapping[str, tuple[Compiled, ...]],
        revoked: Mapping[str, tuple[Compiled, ...]],
        protected: tuple[PathGlob, ...],
        root: str | None,
    ) -> None:
        """For `compile_grants`, which creates the object."""
        self._by_agent = by_agent
        self._revoked = revoked
        self._protected = protected
        self._near_protected = path_matcher(s for g in protected for s in g.segments[:1])
        self._root = root
        # Keyed by identity. The value keeps the tool alive, so that its identity cannot be reused.
        self._tools: dict[tuple[str, int], tuple[Tool, tuple[Compiled, ...], Refusal | None, bool]] = {}

    def normalize(self, marks: Marks, parameters: dict[str, Any], defaults: Defaults) -> dict[str, Any]:
        """Returns the parameters of a call as capability and policy judge them; see `arguments.normalize`."""
        return normalize(marks, parameters, self._root, defaults) if marks or defaults else parameters

    def proposal(self, agent: str, action_count: int) -> Refusal | None:
        """Check the number of actions in a proposal against the most generous of the agent's grants."""
        grants = self._by_agent.get(agent, ())
        if not grants:
            return _revoked("this proposal") if agent in self._revoked else _missing(agent, "this proposal")
        limits = [g.actions_max for g in grants]
        if any(limit is None or action_count <= limit for limit in limits):
            return None
        most = max(limit for limit in limits if limit is not None)
        return Refusal("too_many_actions", f"{action_count} actions, but the grant allows {most} in one proposal")

    def tool(self, agent: str, tool: Tool, now_us: int) -> Refusal | None:
        """Check whether the agent may call this tool (step 2)."""
        _, grants, refusal, static = self._entry(agent, tool)
        if static or refusal is not None:
            return refusal
        return None if _alive(grants, now_us) else _expired(f"the tool `{tool.name}`")

    def tool_is_static(self, agent: str, tool: Tool) -> bool:
        """Returns True if `tool` always gives the same result, and allowed calls use up no counted grant."""
        return self._entry(agent, tool)[3]

    def state_key(self, agent: str, key: str, now_us: int) -> Refusal | None:
        """Check whether the agent may use this state key, for reads, writes, assertions and expected effects alike."""
        grants = self._by_agent.get(agent, ())
        fits = False
        for grant in grants:
            if grant.key(key):
                fits = True
                if grant.expires_at_us is None or now_us < grant.expires_at_us:
                    return None
        what = f"the state key `{key}`"
        if not fits:
            if any(g.key(key) for g in self._revoked.get(agent, ())):
                return _revoked(what)
            return (
                Refusal("state_key_denied", f"no grant of the agent allows {what}") if grants else _missing(agent, what)
            )
        return _expired(what)

    def arguments(
        self, agent: str, tool: Tool, marks: Marks, parameters: Mapping[str, Any], now_us: int
    ) -> Refusal | None:
        """Check whether the agent may call this tool with these paths and hosts (step 3).

        `marks` come from the tool's schema.
        """
        if not marks and not _needs_naming(tool):
            return self.tool(agent, tool, now_us)
        fitting = self.candidates(agent, tool, marks, parameters, now_us)
        return fitting if isinstance(fitting, Refusal) else None

    def candidates(
        self, agent: str, tool: Tool, marks: Marks, parameters: Mapping[str, Any], now_us: int
    ) -> tuple[Compiled, ...] | Refusal:
        """Returns the grants that allow this call, those without a use count first.

        The engine takes the first whose `counted` ids it can all use (`GrantStore.use`); an empty `counted` costs nothing.
        """
        _, grants, refusal, _ = self._entry(agent, tool)
        if refusal is not None:
            return refusal
        grants = _alive(grants, now_us)
        if not grants:
            return _expired(f"the tool `{tool.name}`")
        if _needs_naming(tool) and all(mark in NOT_REACHED for _, mark in marks):
            return tuple(g for g in grants if g.unscoped(tool)) or _unscoped(tool)
        found = reaches(marks, parameters, self._root)
        if isinstance(found, Refusal):
            return found
        for reach in found:
            refusal = self._forbidden(reach)
            if refusal is not None:
                return refusal
        fitting = tuple(g for g in grants if all(map(g.reach, found)))
        return fitting or _denied(grants, found)

    def path(
        self, agent: str, tool: Tool, path: Any, access: Access, now_us: int, *, alone: bool = False
    ) -> Refusal | None:
        """Check a path that a tool finds only while it runs (links, recursion).

        `alone`: what is beneath the path is checked separately, so a directory above the loader's files may be written.
        """
        grants = _alive(self._entry(agent, tool)[1], now_us)
        try:
            reach: Reach = ("$", access, workspace_path(path, self._root))
        except ValueError as error:
            return Refusal("path_denied", f"the path {error}")
        return self._forbidden(reach, alone=alone) or (
            None if any(g.reach(reach) for g in grants) else _denied(grants, [reach])
        )

    def hosts(self, agent: str, tool: Tool, now_us: int) -> tuple[tuple[tuple[str, ...], ...], ...]:
        """Returns patterns of the hosts that a process of this tool may reach.

        For each grant that allows the tool: its own patterns and those of its ancestors, all of which must match.

        A grant with a use count contributes nothing if another allows the tool without one: then none of its uses is taken.
        """
        grants = _alive(self._entry(agent, tool)[1], now_us)
        grants = tuple(g for g in grants if not g.counted) or grants
        return tuple(tuple(c.grant.hosts for c in one.chain) for one in grants)

    def written(self, agent: str, tool: Tool, now_us: int) -> tuple[str, ...]:
        """Returns globs of what a process of this tool may write.

        They are those of the grants that allow the tool, as far as the ancestors of each grant allow them too.
        """
        grants = _alive(self._entry(agent, tool)[1], now_us)
        return tuple(dict.fromkeys(glob for one in grants for glob in one.grant.paths.write if one.writes_all(glob)))

    def readable(self, agent: str, tool: Tool, now_us: int) -> tuple[str, ...]:
        """Returns globs of what a process of this tool may read, likewise."""
        grants = _alive(self._entry(agent, tool)[1], now_us)
        return tuple(dict.fromkeys(glob for one in grants for glob in one.grant.paths.read if one.reads_all(glob)))

    def _entry(self, agent: str, tool: Tool) -> tuple[Tool, tuple[Compiled, ...], Refusal | None, bool]:
        key = (agent, id(tool))
        entry = self._tools.get(key)
        if entry is None:
            entry = self._tools[key] = self._judge_tool(agent, tool)
        return entry

    def _judge_tool(self, agent: str, tool: Tool) -> tuple[Tool, tuple[Compiled, ...], Refusal | None, bool]:
        grants = self._by_agent.get(agent, ())
        fitting = tuple(g for g in grants if g.tool(tool))
        if not fitting:
            what = f"the tool `{tool.name}`"
            if any(g.tool(tool) for g in self._revoked.get(agent, ())):
                return tool, (), _revoked(what), True
            if not grants:
                return tool, (), _missing(agent, what), True
            why = f": `deny_tools` of `{grants[0].grant.id}` names it" if all(g.denies(tool) for g in grants) else ""
            return tool, (), Refusal("capability_denied", f"no grant of the agent allows {what}{why}"), True
        static = any(g.expires_at_us is None and not g.counted for g in fitting)
        return tool, fitting, None, static

    def _forbidden(self, reach: Reach, *, alone: bool = False) -> Refusal | None:
        """Refuse to write files that the loader reads, and, unless `alone`, to replace a directory that contains one."""
        if reach[1] != "write":
            return None
        path = reach[2]
        if not self._near_protected(path.partition("/")[0]) and path != ROOT:
            return None
        if any(g.matches(path) or (not alone and g.within(path)) for g in self._protected):
            return Refusal("path_denied", "Interlock's loader reads this path, so no agent may write it", reach[0])
        return None


def compile_grants(
    grants: Sequence[Grant],
    *,
    revoked: Sequence[Grant] = (),
    groups: Mapping[str, Sequence[str]] | None = None,
    protected: Iterable[str] = (),
    root: str | None = None,
    only: str | None = None,
) -> Capability:
    """Compile grants.

    `only` is the id of the one effective grant, the last block of the presented token: all other grants only limit it.
    Its agent must still be that of the grant from which the token was made, or in its group.

    `revoked` grants allow nothing; they only explain a refusal. `groups` maps an agent to its groups: a grant whose
    agent is `group:NAME` is for their members. `protected` are path globs that no agent may write (what the loader
    reads). `root` is the absolute path of the workspace; it permits absolute arguments beneath it.

    Raises: ConfigurationError for a bad glob or host pattern, two grants with one id, or parents that form a cycle.
    """
    compiled: dict[str, Compiled] = {}
    for grant in grants:
        if grant.id in compiled:
            raise ConfigurationError(f"two grants have the id `{grant.id}`")
        compiled[grant.id] = Compiled(grant)
    alive: dict[str, list[Compiled]] = {}
    gone: dict[str, list[Compiled]] = {}
    for one in compiled.values():
        ancestors = _ancestors(one, compiled)
        one.link(ancestors or ())
        (gone if ancestors is None else alive).setdefault(one.grant.agent, []).append(one)
    for grant in revoked:
        one = Compiled(grant)
        one.link(())
        gone.setdefault(grant.agent, []).append(one)
    everybody = groups or {}
    if only is not None:
        leaf = compiled.get(only)
        if leaf is not None and not _holds(leaf, everybody):
            gone.setdefault(leaf.grant.agent, []).append(leaf)
            alive = {}
        alive, gone = _only(alive, only), _only(gone, only)
    return Capability(
        _by_agent(alive, everybody), _by_agent(gone, everybody), tuple(PathGlob(g) for g in protected), root
    )


def _only(grants: Mapping[str, list[Compiled]], grant_id: str) -> dict[str, list[Compiled]]:
    return {
        agent: found
        for agent, all_of_it in grants.items()
        if (found := [g for g in all_of_it if g.grant.id == grant_id])
    }


def _holds(token: Compiled, groups: Mapping[str, Sequence[str]]) -> bool:
    """Returns True if the grant that a token was made from belongs to the agent, or to one of its current groups."""
    agent = token.grant.agent
    holders = {agent, *(GROUP + name for name in groups.get(agent, ()))}
    return next((c.grant.agent for c in token.chain if c.grant.source != TOKEN), None) in holders


def _by_agent(
    grants: Mapping[str, list[Compiled]], groups: Mapping[str, Sequence[str]]
) -> dict[str, tuple[Compiled, ...]]:
    """Returns each agent's grants and those of its groups, grants without a use count first."""
    out: dict[str, tuple[Compiled, ...]] = {}
    for agent in {*(name for name in grants if not name.startswith(GROUP)), *groups}:
        found = [*grants.get(agent, ()), *(g for name in groups.get(agent, ()) for g in grants.get(GROUP + name, ()))]
        if found:
            out[agent] = tuple(sorted(found, key=lambda g: (bool(g.counted), g.expires_at_us or 0)))
    return out


def _ancestors(one: Compiled, compiled: Mapping[str, Compiled]) -> list[Compiled] | None:
    """Returns the parents up to the root; None if one is missing."""
    out: list[Compiled] = []
    seen = {one.grant.id}
    parent = one.grant.parent
    while parent is not None:
        if parent in seen:
            raise ConfigurationError(f"the parents of grant `{one.grant.id}` form a cycle")
        seen.add(parent)
        if parent not in compiled:
            return None
        out.append(compiled[parent])
        parent = compiled[parent].grant.parent
    return out


def _needs_naming(tool: Tool) -> bool:
    """Returns True if the tool needs marks or an `unscoped` entry."""
    return tool.open_world and tool.isolation in {None, "none"}


def _missing(agent: str, what: str) -> Refusal:
    return Refusal(
        "grant_missing",
        f"`{agent}` has no grant at all, so {what} is not allowed; `[grants.{agent}]` in interlock.toml makes one",
    )


def _revoked(what: str) -> Refusal:
    return Refusal("grant_revoked", f"the grant that would allow {what}, or one it was made from, was revoked")


def _expired(what: str) -> Refusal:
    return Refusal("grant_expired", f"the grant that would allow {what} has expired")


def _unscoped(tool: Tool) -> Refusal:
    return Refusal(
        "unscoped_denied",
        f"the tool `{tool.name}` reaches the world and marks no paths or hosts: the grant must name it in `unscoped`",
    )


def _alive(grants: Sequence[Compiled], now_us: int) -> tuple[Compiled, ...]:
    return tuple(g for g in grants if g.expires_at_us is None or now_us < g.expires_at_us)


def _denied(grants: Sequence[Compiled], found: Sequence[Reach]) -> Refusal:
    """Returns a refusal that names the first argument no grant allows, or says that no single grant allows all of them."""
    for where, access, subject in found:
        if not any(g.reach((where, access, subject)) for g in grants):  # type: ignore[arg-type]
            what = {
                "host": "connecting to the host and port",
                "read": "reading the path",
                "write": "writing the path",
            }
            reason = "host_denied" if access == "host" else "path_denied"
            return Refusal(reason, f"no grant of the agent allows {what[access]} in {named(where)}", where)
    return Refusal(
        "path_denied", "no single grant of the agent allows all of these together", found[0][0] if found else None
    )

"""`interlock learn`: the smallest rules and grants that the last days needed, as the file would hold them.

What is proposed only narrows: entries that nothing used go, and those that stand for several tools, paths, keys or hosts become
what was used. `ask`, `deny` and policies in files stay as they are, so nothing is allowed that was not. What a person approved,
or a temporary grant allowed, is reported and not proposed.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from interlock.capability import Capability, compile_grants
from interlock.capability.arguments import NOT_REACHED, reaches
from interlock.capability.least import GLOBS_MAX, entries, globs
from interlock.engine.inspect.history import History
from interlock.engine.inspect.policy_check import PastCall, Policies, past_calls
from interlock.engine.judges.build import policy_of
from interlock.engine.tools.registry import Registered
from interlock.executors.capsules.capsules import TAG as CAPSULE
from interlock.executors.mcp.servers import TAG as MCP
from interlock.model.decision import Decision, Refusal
from interlock.model.globs import name_matcher
from interlock.model.grant import GROUP, OPERATOR
from interlock.model.tool import Tool
from interlock.policy.verdict import together
from interlock.settings import Settings
from interlock.settings.decode import decode

_EXAMPLES: Final = 3
_ALLOW: Final = "allow:"
_PROCESSES: Final = frozenset({"process"})


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """What agents did in these days: calls that succeeded, by agent and tool."""

    agent: str
    tool: str
    """The tool, or the type of an action on state."""
    calls: int
    asked: int
    """How many of them a person was asked about."""
    covered: bool
    """False if no configured grant covers them (any more): a temporary one did."""
    examples: tuple[str, ...]
    """Runs."""


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """A call of the past that the proposal would decide otherwise."""

    run: str
    action: str
    agent: str
    tool: str
    was: str
    """`allow` or `hold`."""
    would_be: str
    """`deny`, or the reason of a grant's refusal."""
    needed: bool
    """True for a call of these days: the proposal is then not sufficient, and says so."""


class Needed(msgspec.Struct, frozen=True, kw_only=True):
    """What the last days needed."""

    calls: int
    """Calls that succeeded."""
    uses: tuple[Use, ...]
    wanted: dict[str, Any]
    """The configuration's document with the proposal in it."""
    unused: tuple[str, ...]
    """Entries that nothing used: `rules.allow: fs.write`, `grants.coder.tools: exec`."""
    notes: tuple[str, ...]
    """What was left as it is, and why."""
    replayed: int
    """Calls of all runs that are kept, judged again under the proposal."""
    refused: tuple[Refused, ...]


class _Grants(NamedTuple):
    """The configured grants, each by itself: which of them covers a call?"""

    by_agent: Mapping[str, Sequence[tuple[str, Capability]]]

    @classmethod
    def of(cls, settings: Settings, root: str) -> _Grants:
        members: dict[str, list[str]] = {GROUP + name: list(agents) for name, agents in settings.groups.items()}
        found: dict[str, list[tuple[str, Capability]]] = {}
        for grant in settings.all_grants():
            for agent in members.get(grant.agent, [grant.agent]):
                alone = msgspec.structs.replace(grant, agent=agent)
                found.setdefault(agent, []).append((grant.agent, compile_grants([alone], root=root)))
        return cls(found)

    def covering(self, call: PastCall, tool: Registered | None, parameters: dict[str, Any]) -> str | Refusal:
        """The first grant that covers a call with these (normal) parameters, by its name in the file; else the last refusal."""
        agent, last = call.past.request.agent, Refusal("capability_denied", "the agent has no grant")
        for name, capability in self.by_agent.get(agent, ()):
            if tool is None and call.action.tool is not None:  # it is gone: its parameters are not known
                refusal = capability.tool(agent, Tool(name=call.action.tool), 0)
            elif tool is None:
                refusal = capability.state_key(agent, str(parameters.get("key")), 0)
            else:
                refusal = capability.tool(agent, tool.tool, 0) or capability.arguments(
                    agent, tool.tool, tool.marks, parameters, 0
                )
            if refusal is None:
                return name
            last = refusal
        return last


def read_needed(policies: Policies, history: History, since_us: int, agent: str | None = None) -> Needed:
    """What the runs since then needed. Raises: UsageError; StoreError; ConfigurationError."""
    settings, root = policies.settings, str(policies.root)
    grants = _Grants.of(settings, root)
    calls = list(_calls(policies, history))
    recent = {row.run_id for row in history.runs(since_us=since_us)}
    wanted = [
        one
        for one in calls
        if one.past.run in recent
        and one.row is not None
        and one.row.status == "succeeded"
        and one.past.request.agent != OPERATOR
        and (agent is None or one.past.request.agent == agent)
    ]
    seen = _Seen(policies, grants)
    for one in wanted:
        seen.take(one)
    document = tomllib.loads(policies.path.read_text(encoding="utf-8"))
    notes = list(seen.narrow(document, only=agent))
    proposed = decode(document)
    refused = tuple(_replay(policies, proposed, calls, {id(one) for one in wanted}))
    return Needed(
        calls=len(wanted), uses=tuple(seen.uses()), wanted=document, unused=tuple(seen.unused(document)),
        notes=tuple(notes), replayed=len(calls), refused=refused,
    )  # fmt: skip


def _calls(policies: Policies, history: History) -> Iterator[PastCall]:
    for row in reversed(history.runs()):
        for one in past_calls(policies, history, row.run_id):
            if one is not None:
                yield one


def _decide(judge: Any, call: PastCall) -> Decision:
    return together(judge.decide(call.past.request), judge.reads(call.past.request, call.past.reads))


def _replay(policies: Policies, proposed: Settings, calls: Iterable[PastCall], needed: set[int]) -> Iterator[Refused]:
    """The calls that were allowed, and that the proposal would refuse."""
    files = policies.files
    _, judge = policy_of(proposed, files, policies.registry.definitions(), str(policies.root))
    grants = _Grants.of(proposed, str(policies.root))
    before = _Grants.of(policies.settings, str(policies.root))
    for one in calls:
        tool = policies.registry.find(one.action.tool)
        parameters = policies.normalize(one.action.tool or "", one.parameters)
        if one.past.answer == "deny" or isinstance(before.covering(one, tool, parameters), Refusal):
            continue
        if _decide(policies.judge, one).decision == "deny":
            continue  # the present configuration refuses it already
        now, covering = _decide(judge, one), grants.covering(one, tool, parameters)
        if now.decision == "deny" or isinstance(covering, Refusal):
            yield Refused(
                run=one.past.run, action=one.past.action, agent=one.past.request.agent,
                tool=one.action.tool or one.action.type, was=one.past.answer,
                would_be=covering.reason if isinstance(covering, Refusal) else now.decision, needed=id(one) in needed,
            )  # fmt: skip


class _Seen:
    """What was used, by rule and by grant."""

    def __init__(self, policies: Policies, grants: _Grants) -> None:
        self._policies, self._grants = policies, grants
        self._rules: dict[str, set[str]] = {}
        self._by_grant: dict[str, list[tuple[PastCall, Registered | None]]] = {}
        self._uses: dict[tuple[str, str, bool], list[PastCall]] = {}

    def take(self, call: PastCall) -> None:
        """Count a call that succeeded."""
        tool = self._policies.registry.find(call.action.tool)
        name = call.action.tool or ("assert" if call.action.type == "assertion" else call.action.type)
        if (
            tool is None and call.action.tool is not None
        ):  # the policies do not know it either: what may be about it stays
            for entry in self._policies.settings.rules.allow:
                if "(" not in entry and (entry.startswith("tag:") or name_matcher([entry])(name)):
                    self._rules.setdefault(entry, set()).add(name)
        for policy in _decide(self._policies.judge, call).policies:
            if policy.startswith(_ALLOW):
                self._rules.setdefault(policy.removeprefix(_ALLOW), set()).add(name)
        parameters = self._policies.normalize(call.action.tool or "", call.parameters)
        covering = self._grants.covering(call, tool, parameters)
        if isinstance(covering, str):
            self._by_grant.setdefault(covering, []).append((call, tool))
        self._uses.setdefault((call.past.request.agent, name, isinstance(covering, str)), []).append(call)

    def uses(self) -> Iterator[Use]:
        """By agent and tool, the most used first."""
        order = sorted(self._uses.items(), key=lambda each: (each[0][0], -len(each[1]), each[0][1]))
        for (agent, tool, covered), calls in order:
            runs = tuple(dict.fromkeys(one.past.run for one in reversed(calls)))[:_EXAMPLES]
            asked = sum(one.past.answer == "hold" for one in calls)
            yield Use(agent=agent, tool=tool, calls=len(calls), asked=asked, covered=covered, examples=runs)

    def narrow(self, document: dict[str, Any], *, only: str | None) -> Iterator[str]:
        """Narrow a configuration's document. Yields what stays as it is, and why."""
        if only is not None:
            yield "rules: as they are, because they are for other agents too"
        elif "allow" in document.get("rules", {}):
            document["rules"]["allow"] = list(entries(document["rules"]["allow"], self._rules))
        for name, table in document.get("grants", {}).items():
            calls = self._by_grant.get(name)
            if only is not None and name != only:
                continue
            unknown = sorted(
                {
                    call.action.tool
                    for call, tool in calls or ()
                    if call.action.tool is not None and (tool is None or CAPSULE in tool.tool.tags)
                }
            )
            if unknown:
                yield f"grants.{name}: as it is, because it used tools whose needs are not known here: {', '.join(unknown)}"
            elif calls is None:
                yield f"grants.{name}: as it is, because nothing used it"
            else:
                yield from self._narrow_grant(name, table, calls)

    def _narrow_grant(
        self, name: str, table: dict[str, Any], calls: Sequence[tuple[PastCall, Registered | None]]
    ) -> Iterator[str]:
        grant = self._policies.settings.grants[name]
        tools = {tool.name: tool for _, tool in calls if tool is not None}
        table["tools"] = sorted(tools)
        if grant.unscoped:
            named = name_matcher(grant.unscoped)
            table["unscoped"] = sorted(tool.name for tool in tools.values() if _is_unscoped(tool) and named(tool.name))
        keys = {key for call, tool in calls for key in _keys(call, tool)}
        if len(keys) <= GLOBS_MAX and not any(tool.tool.effects for tool in tools.values()):
            table["state_keys"] = sorted(keys)
        else:
            yield f"grants.{name}.state_keys: as they are"
        if any(tool.tool.isolation in _PROCESSES or MCP in tool.tool.tags for tool in tools.values()):
            yield f"grants.{name}.paths and hosts: as they are, because processes ran, and what they need is not known"
            return
        used = self._reached(calls)
        paths = {access: globs(used[access], getattr(grant.paths, access)) for access in ("read", "write")}
        table["paths"] = {access: list(found) for access, found in paths.items()}
        if grant.hosts:
            table["hosts"] = sorted(used["host"])

    def _reached(self, calls: Sequence[tuple[PastCall, Registered | None]]) -> dict[str, set[str]]:
        """What the parameters of calls named: paths that were read or written, and hosts."""
        found: dict[str, set[str]] = {"read": set(), "write": set(), "host": set()}
        root = self._policies.root
        for call, tool in calls:
            if tool is None:
                continue
            parameters = self._policies.normalize(tool.name, call.parameters)
            reached = reaches(tool.marks, parameters, str(root))
            for _, access, what in () if isinstance(reached, Refusal) else reached:
                if access == "host":
                    found["host"].add(str(what))
                    continue
                path = str(what)
                below = path == "." or (root / path).is_dir()
                found[access].add("**" if path == "." else f"{path}/**" if below else path)
            for host in (call.row.hosts or ()) if call.row is not None else ():
                if host.outcome == "connected" and host.port is not None:
                    found["host"].add(str(host))
        return found

    def unused(self, document: Mapping[str, Any]) -> Iterator[str]:
        """The entries of the present configuration that nothing used."""
        kept = set(document.get("rules", {}).get("allow", ()))
        for entry in self._policies.settings.rules.allow:
            if entry not in self._rules and entry not in kept:
                yield f"rules.allow: {entry}"


def _keys(call: PastCall, tool: Registered | None) -> set[str]:
    """The state keys that a call is judged about."""
    own = {str(call.parameters.get("key"))} if tool is None else set()
    return own | {*call.past.reads, *call.action.expected_effects}


def _is_unscoped(tool: Registered) -> bool:
    """True if a grant has to name the tool in `unscoped`."""
    own = tool.tool
    return own.open_world and own.isolation in (None, "none") and all(mark in NOT_REACHED for _, mark in tool.marks)


def counted(refused: Iterable[Refused]) -> list[tuple[str, str, int]]:
    """Refusals by agent and tool, the most first."""
    counts = Counter((one.agent, one.tool) for one in refused)
    return [(agent, tool, count) for (agent, tool), count in sorted(counts.items(), key=lambda e: (-e[1], e[0]))]

"""Builds the judges from the configuration: grants, rules, policy files, and the groups of agents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final
from weakref import WeakKeyDictionary

import msgspec

from interlock.approvals import GrantStore
from interlock.capability import compile_grants
from interlock.engine.judges.in_force import JudgeMaker
from interlock.engine.judges.judges import Judges
from interlock.engine.tools.registry import Registry
from interlock.model.canonical import digest
from interlock.model.clock import Clock
from interlock.model.globs import name_matcher
from interlock.model.grant import GROUP, OPERATOR, Grant
from interlock.model.tool import Tool
from interlock.policy import DenyParam as PolicyDenyParam
from interlock.policy import PolicyJudge, Rules, World, load
from interlock.policy.load import Checked
from interlock.policy.policies import Problem, nearest
from interlock.settings import Loaded, Settings
from interlock.settings.sections import DEFAULTS
from interlock.workspace.protect import LOADED

_OPERATOR_GRANT: Final = Grant(id=OPERATOR, agent=OPERATOR, tools=("undo",), source="built-in")
_OPERATOR_POLICY: Final = (
    "built-in",
    """@id("operator:undo")
permit (principal == Agent::"operator", action == Action::"undo", resource);
""",
)


def maker_of(
    loaded: Loaded, clock: Clock, issued: GrantStore | None, *, workspace: bool = True, checked: Checked | None = None
) -> JudgeMaker:
    """A function that builds the judges of a loaded configuration. Without a `workspace` paths have no root; `checked` remembers
    the policies that were checked before. Raises: ConfigurationError.
    """
    policies = [(name, loaded.text(name)) for name in loaded.policies]
    return _maker(loaded, loaded.settings, policies, clock, issued, workspace=workspace, checked=checked)


def undo_maker_of(loaded: Loaded, clock: Clock, issued: GrantStore | None, *, workspace: bool = True) -> JudgeMaker:
    """A function that builds judges which allow only the person's undo, for when the rules cannot be used."""
    without_rules = msgspec.structs.replace(loaded.settings, rules=DEFAULTS.rules)
    return _maker(loaded, without_rules, (), clock, issued, workspace=workspace)


def _maker(
    loaded: Loaded,
    settings: Settings,
    policies: Sequence[tuple[str, str]],
    clock: Clock,
    issued: GrantStore | None,
    *,
    workspace: bool,
    checked: Checked | None = None,
) -> JudgeMaker:
    grants = (*loaded.settings.all_grants(), _OPERATOR_GRANT)
    root = str(loaded.root) if workspace else None
    return judge_maker(
        settings, policies, grants, clock, issued, root=root, protected=protected_globs(loaded.protected),
        checked=checked,
    )  # fmt: skip


def protected_globs(names: Sequence[str]) -> list[str]:
    """The files that the loader reads, as globs of the capability judge: no agent may write them, regardless of its grant."""
    always = [b"/".join(place).decode() for place in LOADED]
    return [*always, *(f"{name}/**" for name in always if "." not in name), *names]


def policy_of(
    settings: Settings,
    files: Sequence[tuple[str, str]],
    tools: Sequence[Tool],
    root: str | None = None,
    checked: Checked | None = None,
) -> tuple[Rules, PolicyJudge]:
    """The short rules of the settings, and the judge of these rules and the policy files. `root` is the workspace.

    Raises: ConfigurationError.
    """
    names = {tool.name for tool in tools}
    unknown = [
        Problem(f"tools.{name}", f"no tool is named `{name}`{nearest(name, names)}")
        for name in settings.tools.by_name
        if name not in names
    ]
    rules = Rules(
        allow=settings.rules.allow,
        ask=settings.rules.ask,
        deny=settings.rules.deny,
        deny_param=tuple(PolicyDenyParam(tool=d.tool, param=d.param, like=d.like) for d in settings.rules.deny_param),
    )
    texts = [*files, _OPERATOR_POLICY] if any(tool.name == "undo" for tool in tools) else files
    world = World(
        tools=tuple(tools),
        agents=settings.groups_by_agent(),
        approval_groups=frozenset(settings.approvals.groups) or None,
        root=root or "/",
        home=str(Path.home()),
        env_allow=settings.isolation.env_allow,
    )
    judge = load(texts, rules, world, checked)
    judge.warnings = (*judge.warnings, *unknown)
    return rules, judge


def unknown_in_grants(settings: Settings, tools: Sequence[Tool]) -> Iterator[Problem]:
    """Entries of the configuration's grants that no tool matches."""
    names = {tool.name for tool in tools}
    tags = {f"tag:{tag}" for tool in tools for tag in tool.tags}
    for grant, found in settings.grants.items():
        for field in ("tools", "deny_tools", "unscoped"):
            for at, entry in enumerate(getattr(found, field)):
                place = f"grants.{grant}.{field}[{at}]"
                if set("()") & set(entry):
                    yield Problem(
                        place, f"`{entry}` matches no tool: a grant names tools, and `[rules]` says which commands"
                    )
                elif entry.startswith("tag:"):
                    if entry not in tags:
                        yield Problem(place, f"no tool has the tag of `{entry}`{nearest(entry, tags)}")
                elif not any(map(name_matcher([entry]), names)):
                    yield Problem(place, f"no tool matches `{entry}`{nearest(entry, names)}")


def judge_maker(
    settings: Settings,
    files: Sequence[tuple[str, str]],
    grants: Sequence[Grant],
    clock: Clock,
    issued: GrantStore | None,
    *,
    root: str | None = None,
    protected: Sequence[str] = (),
    checked: Checked | None = None,
) -> JudgeMaker:
    """A function that builds the judges of a session, for the tools and grants that exist when it is called.

    `issued` are the grants outside of the configuration; None if there can be none.
    """
    groups = settings.groups_by_agent()
    tool_hosts = {name: tool.hosts for name, tool in settings.tools.by_name.items() if tool.hosts is not None}
    judges: WeakKeyDictionary[Registry, tuple[int, PolicyJudge]] = WeakKeyDictionary()

    def judge(registry: Registry) -> PolicyJudge:
        generation, found = judges.get(registry, (-1, None))
        if found is None or generation != registry.generation:
            _, found = policy_of(settings, files, registry.named(), root, checked)
            judges[registry] = registry.generation, found
        return found

    def make(registry: Registry, session: str | None, own: Mapping[str, Grant], token: str | None) -> Judges:
        # A grant that was set in code replaces all grants of its agent in the configuration, including those of its groups.
        shared = {agent: names for agent, names in groups.items() if agent not in own}
        given = [*(grant for grant in grants if grant.agent not in own), *own.values()]
        if issued is None:
            capability = compile_grants(given, groups=shared, root=root, protected=protected, only=token)
            return Judges(
                capability, judge(registry), clock.now_us, groups, _fingerprints(given, shared),
                private_hosts=settings.network.private, tool_hosts=tool_hosts,
            )  # fmt: skip
        revision = issued.revision()
        alive, revoked = issued.load(session, token)
        alive = [grant for grant in alive if grant.source != "configuration" or grant.agent not in own]
        known = {grant.id for grant in (*alive, *revoked)}
        every = [*alive, *(grant for grant in given if grant.id not in known)]
        capability = compile_grants(every, revoked=revoked, groups=shared, root=root, protected=protected, only=token)
        some = any(grant.source != "configuration" or grant.uses_max is not None for grant in alive)
        # Expiry is judged by a clock that does not go back when the system clock is set.
        now_us = issued.time.now_us if some or any(g.expires_at_us is not None for g in every) else clock.now_us
        prints = _fingerprints(every, shared)
        if token is not None:  # results that were stored for the agent itself, or for another token, must not be used
            prints = {agent: digest("grants", [token, print_]) for agent, print_ in prints.items()}
        return Judges(
            capability, judge(registry), now_us, groups, prints, revision=revision, issued=some,
            private_hosts=settings.network.private, tool_hosts=tool_hosts,
        )  # fmt: skip

    return make


def _fingerprints(grants: Sequence[Grant], groups: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """A digest of the grants of each agent, its own and those of its groups."""
    found = {}
    for agent in {*(grant.agent for grant in grants), *groups}:
        holders = {agent, *(GROUP + name for name in groups.get(agent, ()))}
        found[agent] = digest("grants", sorted(msgspec.json.encode(g).decode() for g in grants if g.agent in holders))
    return found

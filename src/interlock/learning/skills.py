"""Skills: parametrised proposals that have worked. Each version is a candidate until a person approves it.

Learning from a trace is one transaction, which recomputes the skills from all stored traces: two processes that learn
at the same time, or a repetition of the same history, give the same skills.

Schema history: 1: first. 2: a trace may be of several runs. 3: which step of a use failed, and why. 4: which runs were
undone, so that a process that learns from one of them later knows. 5: the state before a use, and uses that were undone.
6: calls of sessions that are not over.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple

import msgspec

from interlock.disk import Database
from interlock.learning.align import Template, Trace, UnalignableError, align, bindings
from interlock.learning.evidence import TraceStore, json_of
from interlock.learning.open_calls import OpenCallStore
from interlock.learning.uses import Use, UseStore
from interlock.model import typed
from interlock.model.canonical import digest
from interlock.model.clock import Clock
from interlock.model.errors import ConflictError, UsageError

SkillState = Literal["candidate", "active", "degraded", "retired"]
EVIDENCE_MIN: Final = 2
USES_MIN: Final = 5
"""Minimum number of uses before a skill can be degraded."""
RATE_MIN: Final = 0.6
GOALS_MAX: Final = 5
EVOLVED: Final = "evolved"
"""The source of a version that repairs another one."""
IMPORTED: Final = ""
"""The shape of a skill that was not learnt here."""
_SLUG: Final = re.compile(r"[^a-z0-9]+")
_SLUG_CHARS: Final = 48
_OF_VERSION: Final = "workspace = ? and name = ? and version = ?"

_SCHEMA: Final = (
    """
    create table skill_traces (
        number integer primary key,
        workspace text not null, agent text not null, shape text not null, run text not null, proposal text not null,
        trace text not null, tools text not null, created_us bigint not null, withdrawn_by text,
        unique (workspace, run, proposal)
    );
    create index skill_traces_by_shape on skill_traces (workspace, agent, shape, number);
    create table skills (
        workspace text not null, name text not null, version bigint not null, agent text not null, shape text not null,
        state text not null, content text not null, digest text not null, created_us bigint not null,
        decided_by text, tested text, source text not null,
        primary key (workspace, name, version)
    );
    create table skill_uses (
        workspace text not null, name text not null, version bigint not null, run text not null, proposal text not null,
        agent text not null, succeeded integer not null, at_us bigint not null,
        primary key (workspace, run, proposal)
    );
    """,
    """
    alter table skill_traces add column runs text not null default '';
    update skill_traces set runs = ' ' || run || ' ';
    """,
    "alter table skill_uses add column failed text not null default ''",
    """
    create table skill_undone (
        workspace text not null, run text not null, by_run text not null, at_us bigint not null,
        primary key (workspace, run)
    );
    """,
    """
    alter table skill_uses add column state text not null default '{}';
    alter table skill_uses add column withdrawn_by text;
    """,
    """
    create table skill_calls (
        number integer primary key,
        workspace text not null, owner text not null, agent text not null, session text not null, run text not null,
        step text not null, version text, at_us bigint not null
    );
    """,
)


class Content(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a skill does, and when to use it."""

    goals: tuple[str, ...]
    """The goals of the proposals it was learnt from, in their own words."""
    template: Template
    tools: dict[str, str]
    """Each tool with the version of its definition at the time of learning."""

    @property
    def digest(self) -> str:
        """Digest of what the skill does. The goals only describe it."""
        return digest("skill", [msgspec.to_builtins(self.template), self.tools])


class Skill(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a skill. `agent` is the agent whose proposals it was learnt from: it gives no rights."""

    name: str
    version: int
    state: SkillState
    agent: str
    content: Content
    digest: str
    """The digest that a person approves: any change gives another one."""
    created_us: int
    decided_by: str | None = None
    tested: str | None = None
    """Outcome of the last test of this content: `passed`, or the reason why not."""
    source: str = "learnt"
    """`learnt`, `imported`, or `EVOLVED`."""
    shape: str = IMPORTED


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """A proposal that a skill was learnt from, with its arguments."""

    run: str
    proposal: str
    arguments: dict[str, Any]


class Degraded(NamedTuple):
    """Versions that are degraded, because too few uses of the skill, or of the skills of a domain, succeeded."""

    domain: str
    """The skill's name, or the domain."""
    rate: float
    versions: tuple[Skill, ...]


_COLUMNS: Final = "name, version, state, agent, content, digest, created_us, decided_by, tested, source, shape"


class SkillStore:
    """The skills of one workspace. Every method may raise StoreError."""

    def __init__(self, db: Database, workspace: str, clock: Clock) -> None:
        """Create the tables if they do not exist."""
        self.db = db
        self.traces = TraceStore(db, workspace, clock)
        self.uses = UseStore(db, workspace, clock)
        self.calls = OpenCallStore(db, workspace, clock)
        self._workspace = workspace
        self._clock = clock
        db.migrate("skills", _SCHEMA)

    # -- learning

    def learn(
        self, agent: str, runs: Sequence[str], proposal: str, trace: Trace, tools: dict[str, str]
    ) -> Skill | None:
        """Count a successful proposal, or the `runs` of a task's calls. Returns the candidate if this creates a new one."""
        with self.db.transaction():
            if not self.traces.add(agent, runs, proposal, trace, tools):
                return None
            return self._distil(agent, trace.shape)

    def withdraw(self, run: str, *, by: str) -> tuple[list[str], list[str]]:
        """Remove an undone run from the evidence. What that run itself had withdrawn counts again.

        Returns the skills (`NAME@VERSION`) with evidence that counts again, and those that lost evidence.
        """
        with self.db.transaction():
            self.uses.withdraw(run, by=by)
            rows = self.traces.withdraw(run, by=by)
            back: list[str] = []
            gone: list[str] = []
            for agent, shape, counts_again in rows:
                before = self._newest(agent, shape)
                self._learn_again(agent, shape)
                newest = self._newest(agent, shape) or before
                if newest is not None:
                    (back if counts_again else gone).append(f"{newest.name}@{newest.version}")
        return back, gone

    def _learn_again(self, agent: str, shape: str) -> None:
        """Update the skills of a shape after its evidence has changed."""
        if len(self.traces.of(agent, shape)) >= EVIDENCE_MIN:
            self._distil(agent, shape)  # a candidate keeps nothing of the withdrawn evidence
            return
        self.db.execute(
            "delete from skills where workspace = ? and agent = ? and shape = ? and state = 'candidate'",
            (self._workspace, agent, shape),
        )
        self.db.execute(
            "update skills set state = 'degraded' where workspace = ? and agent = ? and shape = ? and state = 'active'",
            (self._workspace, agent, shape),
        )

    def _distil(self, agent: str, shape: str) -> Skill | None:
        rows = self.traces.of(agent, shape)
        if len(rows) < EVIDENCE_MIN:
            return None
        traces = [typed.decode(row[2], Trace) for row in rows]
        newest = self._newest(agent, shape)
        if newest is not None and newest.state == "candidate" and newest.source == EVOLVED:
            return None  # a person must decide about it first
        if newest is not None and newest.state != "candidate":
            settled = newest.state == "retired" or arguments_of(newest, traces[-1]) is not None
            if settled:  # a person does not want it, or it already covers this trace
                return None
        try:
            template = align(traces)
        except UnalignableError:
            return None
        goals = tuple(dict.fromkeys(trace.goal for trace in traces if trace.goal))[:GOALS_MAX]
        content = Content(goals=goals, template=template, tools=typed.decode(rows[-1][3], dict[str, str]))
        if newest is None:
            return self._add(self._free_name(content), 1, agent, shape, content, "learnt")
        if newest.state != "candidate":
            return self._add(newest.name, self._next_version(newest.name), agent, shape, content, "learnt")
        if newest.content != content:
            self.db.execute(
                "update skills set content = ?, digest = ?, tested = null where workspace = ? and name = ? and version = ?",
                (json_of(content), content.digest, self._workspace, newest.name, newest.version),
            )
        return None

    def add_imported(self, name: str, content: Content) -> Skill:
        """Store a skill from elsewhere, as a candidate with its own version."""
        with self.db.transaction():
            return self._add(name, self._next_version(name), "", IMPORTED, content, "imported")

    def add_repair(self, skill: Skill, content: Content) -> Skill | None:
        """Store a repair of a skill as a candidate.

        Returns None if there is a candidate already, or an earlier version was the same.
        """
        with self.db.transaction():
            known = self.versions(skill.name)
            if any(one.state == "candidate" or one.digest == content.digest for one in known):
                return None
            version = self._next_version(skill.name)
            return self._add(skill.name, version, skill.agent, skill.shape, content, EVOLVED)

    def _next_version(self, name: str) -> int:
        known = self.versions(name)
        return known[0].version + 1 if known else 1

    def _add(self, name: str, version: int, agent: str, shape: str, content: Content, source: str) -> Skill:
        self.db.execute(
            "insert into skills (workspace, name, version, agent, shape, state, content, digest, created_us, source)"
            " values (?, ?, ?, ?, ?, 'candidate', ?, ?, ?, ?)",
            (
                self._workspace, name, version, agent, shape, json_of(content), content.digest,
                self._clock.now_us(), source,
            ),
        )  # fmt: skip
        return self.get(name, version)

    def _free_name(self, content: Content) -> str:
        tools = dict.fromkeys(step.tool or step.type for step in content.template.steps)
        base = _slug(content.goals[0] if content.goals else " ".join(tools)) or "skill"
        name, number = base, 2
        while self.versions(name):
            name, number = f"{base}-{number}", number + 1
        return name

    # -- people

    def approve(self, name: str, version: int, shown: str, *, by: str) -> Skill:
        """Make a version the one in use, and retire the previous one.

        Raises: UsageError `not_found`; ConflictError `changed` if its digest is not the `shown` one.
        """
        with self.db.transaction():
            found = self.get(name, version)
            if found.digest != shown:
                raise ConflictError(
                    f"`{name}` has changed since it was shown", code="changed", hint=f"`interlock skills show {name}`"
                )
            self.db.execute(
                "update skills set state = 'retired' where workspace = ? and name = ? and state in ('active', 'degraded')",
                (self._workspace, name),
            )
            self._set(name, version, state="active", decided_by=by)
        return self.get(name, version)

    def retire(self, name: str, *, by: str) -> list[Skill]:
        """Retire a skill: no version of it is used, offered or learnt again. Raises: UsageError `not_found`."""
        with self.db.transaction():
            found = self.versions(name)
            if not found:
                raise _missing(name)
            for one in found:
                if one.state != "retired":
                    self._set(name, one.version, state="retired", decided_by=by)
        return self.versions(name)

    def set_tested(self, skill: Skill, outcome: str) -> None:
        """Store the outcome of a test, unless the skill has changed meanwhile."""
        self.db.execute(
            "update skills set tested = ? where workspace = ? and name = ? and version = ? and digest = ?",
            (outcome, self._workspace, skill.name, skill.version, skill.digest),
        )

    # -- uses

    def count_use(self, use: Use) -> list[Degraded]:
        """Count a use of an active version. Returns what it degrades: the version itself, and those of a failing domain.

        In a failing domain, a version does not need `USES_MIN` uses of its own; one that succeeds often enough stays active.
        """
        with self.db.transaction():
            self.uses.add(use)
            skill = self.get(use.name, use.version)
            if skill.state != "active":
                return []
            active = [one for one in self.all() if one.state == "active"]
            groups = [(skill.name, [skill], USES_MIN)]
            for domain in sorted(domains_of(skill)):
                members = [one for one in active if domain in domains_of(one)]
                if len(members) > 1:
                    groups.append((domain, members, 2 * USES_MIN))
            found = []
            for domain, members, least in groups:
                together = self.uses.of([(one.name, one.version) for one in members])
                if together.uses < least or together.rate >= RATE_MIN:
                    continue
                weak = [one for one in members if self.uses.of([(one.name, one.version)]).rate < RATE_MIN]
                weak = [one for one in weak if self.get(one.name, one.version).state == "active"]
                for one in weak:
                    self._set(one.name, one.version, state="degraded", decided_by=None)
                found += [Degraded(domain, together.rate, tuple(weak))] if weak else []
            return found

    # -- reading

    def get(self, name: str, version: int | None = None) -> Skill:
        """Returns a version; without a number the one in use, or the newest if none is. Raises: UsageError `not_found`."""
        found = self.versions(name)
        if version is not None:
            found = [one for one in found if one.version == version]
        if not found:
            raise _missing(name)
        return next((one for one in found if version is None and one.state == "active"), found[0])

    def versions(self, name: str) -> list[Skill]:
        """Returns all versions, newest first."""
        return self._select("name = ? order by version desc", name)

    def all(self) -> list[Skill]:
        """Returns every version of every skill, by name, newest first."""
        return self._select("1 = 1 order by name, version desc")

    def evidence(self, skill: Skill) -> list[Evidence]:
        """Returns the proposals that a skill was learnt from and fits, oldest first."""
        found = []
        for run, proposal, text, _ in self.traces.of(skill.agent, skill.shape):
            arguments = arguments_of(skill, typed.decode(text, Trace))
            if arguments is not None:
                found.append(Evidence(run=run, proposal=proposal, arguments=arguments))
        return found

    def prune(self, before_us: int) -> None:
        """Delete old traces and uses; skills remain."""
        with self.db.transaction():
            self.traces.prune(before_us)
            self.uses.prune(before_us)
            self.calls.prune(before_us)

    def _newest(self, agent: str, shape: str) -> Skill | None:
        found = self._select("agent = ? and shape = ? order by version desc", agent, shape)
        return found[0] if found else None

    def _set(self, name: str, version: int, *, state: SkillState, decided_by: str | None) -> None:
        known = (state, decided_by, self._workspace, name, version)
        self.db.execute(f"update skills set state = ?, decided_by = ? where {_OF_VERSION}", known)  # noqa: S608 - a constant

    def _select(self, condition: str, *values: Any) -> list[Skill]:
        rows: Sequence[tuple[Any, ...]] = self.db.execute(
            f"select {_COLUMNS} from skills where workspace = ? and {condition}",  # noqa: S608 - constants
            (self._workspace, *values),
        )
        names = [name.strip() for name in _COLUMNS.split(",")]
        found = []
        for row in rows:
            fields = dict(zip(names, row, strict=True))
            found.append(Skill(**{**fields, "content": typed.decode(fields["content"], Content)}))
        return found


def domains_of(skill: Skill) -> frozenset[str]:
    """Returns the kinds of work that a skill does: the first part of its tools' names (`fs` of `fs.read`, `s` of `s/echo`)."""
    return frozenset(re.split(r"[./]", tool)[0] for tool in skill.content.tools)


def arguments_of(skill: Skill, trace: Trace) -> dict[str, Any] | None:
    """Returns the arguments with which a skill yields a trace; None if it does not.

    A repair may differ in how its steps are tried.
    """
    template = skill.content.template
    if skill.source == EVOLVED and len(template.steps) == len(trace.steps):
        pairs = zip(template.steps, trace.steps, strict=True)
        steps = tuple(msgspec.structs.replace(ours, more=theirs.more) for ours, theirs in pairs)
        template = msgspec.structs.replace(template, steps=steps)
    return bindings(template, trace)


def _slug(text: str) -> str:
    return _SLUG.sub("-", text.lower()).strip("-")[:_SLUG_CHARS].strip("-")


def _missing(name: str) -> UsageError:
    return UsageError(f"there is no skill `{name}`", code="not_found", hint="`interlock skills list` shows them")

"""The policies in a project's files, trusted or not, for `interlock policy`.

An edit can be checked before it is trusted. A tool module is loaded for the check only if exactly its bytes are trusted.
"""

from __future__ import annotations

import asyncio
import fnmatch
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from interlock.capability.arguments import normalize
from interlock.disk import Disk
from interlock.engine.assemble import embedded
from interlock.engine.capsules import attach as capsule_tools
from interlock.engine.inspect.history import History
from interlock.engine.judges.build import policy_of, unknown_in_grants
from interlock.engine.judges.judges import read_keys
from interlock.engine.judges.requests import Subject, build_request, proposal_facts, subject_of
from interlock.engine.learning import attach as learning
from interlock.engine.local.clock import SystemClock
from interlock.engine.record.replay import ReplayedRun
from interlock.engine.services import close_all
from interlock.engine.tools import mcp_tools, model_tools
from interlock.engine.tools.registry import Registry
from interlock.executors.mcp.lock import FILE
from interlock.executors.modules import ModuleTools
from interlock.journal import read
from interlock.model.errors import ConfigurationError, IntegrityError, InterlockError, UsageError
from interlock.model.events import PolicyDecided
from interlock.model.grant import Principal
from interlock.model.proposal import Action, Proposal
from interlock.model.result import ActionResult
from interlock.model.tool import Binding, Context, Tool
from interlock.policy import (
    CaseResult,
    Change,
    Explanation,
    Past,
    PolicyConfigurationError,
    PolicyJudge,
    Replay,
    read_cases,
    run_cases,
    to_cedar,
)
from interlock.policy.replay import replay
from interlock.policy.world import BUILT_IN, about
from interlock.settings import Gathered, Settings, TrustStore, gather
from interlock.settings.source import utf8
from interlock.state.store import StateStore
from interlock.verify.references import References
from interlock.workspace.registry import state_directory

_RULE = re.compile(r"rules\.(\w+)\[(\d+)\](?::\d+)?")

__all__ = ["CaseResult", "Change", "Explanation", "Policies", "Replay", "Replayed", "read_policies"]


class Policies(msgspec.Struct, frozen=True, kw_only=True):
    """The policies of a project, compiled."""

    judge: PolicyJudge
    agent: str
    """The agent of a request that does not name one."""
    rules: str
    """The short rules, translated to Cedar."""
    files: list[tuple[str, str]]
    """Name and text of each policy file."""
    unmatched: list[str]
    """Patterns of `policy.files` that match no file."""
    unknown: list[str]
    """Entries of the grants that no tool matches."""
    tools: int
    trusted: bool
    """False if these policies are not in force until `interlock trust`."""
    left_out: dict[str, str]
    """Why the tools of each tool module that was not loaded, or of `interlock.lock`, are not known here."""
    registry: Registry
    root: Path
    settings: Settings
    """As in the file."""
    path: Path
    """The file."""

    def normalize(self, tool: str, parameters: dict[str, Any]) -> dict[str, Any]:
        """Parameters as the gate passes them to the policies: paths and hosts normalized, and defaults filled in."""
        found = self.registry.find(tool)
        return parameters if found is None else normalize(found.marks, parameters, str(self.root), found.defaults)

    def test(self, data: Any, name: str) -> tuple[CaseResult, ...]:
        """Run a table of cases. Raises: ConfigurationError if it cannot be read."""
        cases = read_cases(data, name)
        return run_cases(
            self.judge,
            tuple(
                msgspec.structs.replace(
                    case, agent=case.agent or self.agent, parameters=self.normalize(case.action, case.parameters)
                )
                for case in cases
            ),
        )

    def unknown_action(self, action: str) -> str | None:
        """The sentence that there is no such tool, with the closest name; None if there is one."""
        if action in BUILT_IN or self.registry.find(action) is not None:
            return None
        return f"{self.registry.missing(action)}; a tool that a Python program registers is not known here"

    def explain(
        self,
        action: str,
        *,
        agent: str | None,
        parameters: dict[str, Any],
        resource: str | None = None,
        session: str | None = None,
        state: dict[str, Any] | None = None,
    ) -> Explanation:
        """The policies' answer to a request, and the result of each policy. Raises: UsageError without a resource."""
        resource, named = about(action, resource, self.normalize(action, parameters))
        if resource is None:
            kind = BUILT_IN[action][0]
            raise UsageError(f"`{action}` is about a {kind}: name it", hint="with `--resource NAME`")
        kind = BUILT_IN[action][0] if action in BUILT_IN else "Tool"
        return self.judge.explain(
            build_request(
                self.judge, Principal(agent=agent or self.agent, session=session),
                Subject(action, kind, resource),  # type: ignore[arg-type]
                parameters=parameters, normalized=named, state=state or {},
                proposal={"id": "explain", "source": "explain", "action_count": 1},
            )
        )  # fmt: skip


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """The answers of an edited policy set to the requests of past runs."""

    requests: int
    summary: str
    changes: tuple[Change, ...]
    left_out: int
    """Decisions that cannot be replayed, because their parameters are no longer kept."""


def read_policies(start: Path, env: Mapping[str, str]) -> Policies:
    """Read, compile and check the current policies.

    Raises: ConfigurationError naming each problem with file and line; StoreError, IntegrityError.
    """
    disk = Disk()
    gathered = gather(start)
    changes = TrustStore(state_directory(env, disk), disk).check(gathered.root, gathered.files)
    changed = {change.name for change in changes}
    services, closing = embedded({}, workspace=gathered.root, env={})
    try:
        model_tools.prepare(services, gathered.settings, {}, lambda binding, _: binding)()
        learning.offer_to_rules(services, gathered.settings)
        left_out = _offer_outside_tools(services.registry, gathered)
        modules = gathered.settings.tools.modules
        untrusted = bool(changed & set(gathered.modules.values()))
        left_out |= dict.fromkeys(modules if untrusted else (), "their code is not trusted, so it does not run")
        if modules and not untrusted:
            data = {file.name: file.data for file in gathered.files}
            trusted = {
                module: (str(gathered.root / name), hashlib.sha256(data[name]).hexdigest())
                for module, name in gathered.modules.items()
            }
            loader = ModuleTools(modules, gathered.root, SystemClock(), trusted=trusted)
            closing.append(loader.close)
            for binding in asyncio.run(loader.load()):
                services.registry.register(binding)
        texts = {file.name: file.data for file in gathered.files}
        files = [(name, utf8(texts[name], name)) for name in gathered.policies]
        definitions: Sequence[Tool] = services.registry.definitions()
        settings = gathered.settings
        if left_out:  # the limits of tools that are unknown here are checked once the modules are trusted
            settings = msgspec.structs.replace(settings, tools=msgspec.structs.replace(settings.tools, by_name={}))
        try:
            rules, judge = policy_of(settings, files, definitions, str(gathered.root))
        except PolicyConfigurationError as error:
            raise error.placed(lambda place: _rule_place(place, gathered)) from None
        return Policies(
            judge=judge,
            agent=gathered.settings.agent,
            rules=to_cedar(rules),
            files=files,
            unmatched=[pattern for pattern in gathered.settings.policy.files if not _fits(pattern, gathered)],
            unknown=[] if left_out else list(map(str, unknown_in_grants(gathered.settings, definitions))),
            tools=len(definitions),
            trusted=not changes,
            left_out=left_out,
            registry=services.registry,
            root=gathered.root,
            settings=gathered.settings,
            path=gathered.path,
        )
    finally:
        close_all(closing)


def _offer_outside_tools(registry: Registry, gathered: Gathered) -> dict[str, str]:
    """Register the locked tools of MCP servers and those that capsules declare; none is started. Returns what is left out."""

    async def refuse(_parameters: dict[str, Any], _ctx: Context) -> Any:
        raise UsageError("nothing runs where rules are looked at")

    left_out, locked = {}, []
    try:
        locked = mcp_tools.locked_tools(gathered.settings, gathered.files)
    except ConfigurationError as error:  # opening the project reports it, and `interlock trust` shows the file
        left_out[FILE] = error.message
    for tool in (*locked, *capsule_tools.declared(gathered.capsules)):
        registry.register(Binding(tool=tool, function=refuse, mode="async"))
    return left_out


def _fits(pattern: str, gathered: Gathered) -> bool:
    """Whether a pattern of `policy.files` matches a file; without a `*` it is a name, and that file has been read."""
    whole = os.path.normpath(gathered.root / pattern)
    return "*" not in pattern or any(
        fnmatch.fnmatchcase(str(gathered.root / name), whole) for name in gathered.policies
    )


def _rule_place(place: str, gathered: Gathered) -> str:
    """The file and line of a rule, for `rules.allow[0]`; any other place unchanged."""
    rule = _RULE.fullmatch(place)
    return gathered.locate(("rules", rule[1], int(rule[2]))) if rule else place


class PastCall(NamedTuple):
    """A call of a past run, as it was judged first."""

    past: Past
    action: Action
    parameters: dict[str, Any]
    row: ActionResult | None
    """None if the run ended before the call did."""


def replay_runs(policies: Policies, history: History, run_ids: Sequence[str]) -> Replayed:
    """Repeat the requests of past runs (of all runs, if none is named). Raises: UsageError `not_found`; StoreError."""
    chosen = list(run_ids) or [row.run_id for row in reversed(history.runs(limit=1_000_000))]
    past: list[Past] = []
    left_out = 0
    for run_id in chosen:
        for one in past_calls(policies, history, run_id):
            if one is None:
                left_out += 1
            else:
                past.append(one.past)
    found = replay(policies.judge, past)
    return Replayed(requests=found.requests, summary=found.summary, changes=found.changes, left_out=left_out)


def past_calls(policies: Policies, history: History, run_id: str) -> Iterator[PastCall | None]:
    """The first decision about each action of a run, with its request; None if the request is no longer known."""
    directory = history.directory(run_id)
    try:
        replayed = ReplayedRun(directory)
        decided = [event for event in read(directory) if isinstance(event, PolicyDecided)]
    except InterlockError:
        return  # a damaged journal has no requests; `runs check` describes the damage
    store = StateStore(history.db, history.place.workspace_id, SystemClock())
    seen: set[tuple[str | None, str | None]] = set()
    rows: dict[str, dict[str, ActionResult]] = {}
    documents: dict[str, tuple[Proposal, dict[str, Action], References]] = {}
    for event in decided:
        key = (event.proposal, event.action)
        known = replayed.proposals.get(event.proposal or "")
        if key in seen or known is None or event.decision not in ("allow", "deny", "hold"):
            continue
        seen.add(key)
        try:
            if event.proposal not in documents:
                whole = replayed.proposal(known)
                named = {action.id: action for action in whole.actions}
                documents[event.proposal or ""] = whole, named, References(named)
        except IntegrityError:
            yield None
            continue
        proposal, by_id, references = documents[event.proposal or ""]
        action = by_id[event.action or ""]
        parameters = _parameters(replayed, known, action, references)
        if parameters is None:
            yield None
            continue
        session = proposal.session or (replayed.started.session if replayed.started is not None else None)
        request = build_request(
            policies.judge, Principal(agent=known.received.agent, session=session), subject_of(action),
            parameters=parameters, normalized=policies.normalize(action.tool or "", parameters),
            state=_state(policies, store, event.ts), proposal=proposal_facts(proposal),
        )  # fmt: skip
        one = Past(
            run=run_id,
            action=action.id,
            request=request,
            answer=event.decision,  # type: ignore[arg-type]
            reads=read_keys(action),
        )
        if proposal.id not in rows:
            rows[proposal.id] = {row.action_id: row for row in replayed.result(proposal.id).results}
        row = rows[proposal.id].get(action.id)
        yield PastCall(one, action, parameters, row)


def _parameters(replayed: ReplayedRun, known: Any, action: Action, references: References) -> dict[str, Any] | None:
    """The proposed parameters; if they contain an earlier output, those with which the action ran."""
    if not references.any_in(action.parameters):
        return action.parameters
    kept = known.actions[action.id].parameters if action.id in known.actions else None
    if kept is None:
        return None
    try:
        value = replayed.value(kept)
    except IntegrityError:
        return None
    return value if isinstance(value, dict) else None


def _state(policies: Policies, store: StateStore, at_us: int) -> dict[str, Any]:
    """The values that the policies' state keys had at a time."""
    values = {}
    for key in policies.judge.state_keys:
        before = [t for t in store.history(key) if t.at_us <= at_us]
        if before and not before[-1].deleted:
            values[key] = before[-1].value
    return values
